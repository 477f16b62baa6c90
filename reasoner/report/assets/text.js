// Elements and text. Whatever comes from a run is only ever put in as text.

const CONTROL = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff])/;

/** An element: h("p", {class: "about"}, "text", child, null). Handlers are given as functions: {onclick: f}. */
function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A piece of a line, with a class or without. */
function span(kind, ...children) {
  return h("span", { class: kind || null }, ...children);
}

function button(text, onclick, attributes) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

/** Text as nodes: characters that hide or turn text around are shown by their number, what was searched is marked. */
function shown(text, query) {
  const nodes = [];
  for (const part of text.split(CONTROL)) {
    if (part.length === 1 && CONTROL.test(part)) {
      const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      nodes.push(span("control", `U+${code}`));
    } else if (part) nodes.push(...marked(part, query));
  }
  return nodes;
}

function marked(text, query) {
  if (!query) return [text];
  const nodes = [];
  const low = text.toLowerCase();
  let from = 0;
  // A letter whose lower case is longer would shift every index: such text stays unmarked.
  for (let at = low.indexOf(query); at >= 0 && low.length === text.length; at = low.indexOf(query, from)) {
    nodes.push(text.slice(from, at), h("mark", null, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  nodes.push(text.slice(from));
  return nodes.filter((node) => node !== "");
}

/** A number in its unit, as the rest of the report writes it. */
function figure(value, unit) {
  if (value === null || value === undefined) return "none";
  if (unit === "share") return `${(100 * value).toFixed(Math.abs(value) >= 0.1 || value === 0 ? 1 : 2)}%`;
  if (unit === "tokens" || unit === "tokens/s") return value.toFixed(value < 100 ? 1 : 0);
  if (unit === "s") return `${value.toFixed(1)} s`;
  if (unit === "GiB") return `${value.toFixed(2)} GiB`;
  const extreme = Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3);
  return extreme ? value.toExponential(2) : `${+value.toPrecision(4)}`;
}

/** Four significant digits. */
function short(value) {
  return value === null || value === undefined ? "-" : `${+value.toPrecision(4)}`;
}

function signed(value) {
  return `${value > 0 ? "+" : ""}${short(value)}`;
}

function plural(count, one, many) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}
