// A response's text, whole or token by token with a colour for what the tokens carry.

const COLOURINGS = {
  plain: "no colours",
  logprob: "log-probability",
  weight: "weight",
};
const MOST_CHARACTERS = 24000;
const MOST_TOKENS = 4000;

function weightOf(response, at) {
  return typeof response.weights === "number" ? response.weights : response.weights?.[at] ?? null;
}

function largestWeight(group) {
  const sizes = group.responses.flatMap((each) => (typeof each.weights === "number" ? [each.weights] : each.weights || [0]));
  return sizes.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0);
}

/** The written text; what is very long is cut, with a button for the rest. */
function written(response, colouring, scale, query, whole = false) {
  const box = h("div", { class: "written", dir: "auto" });
  const many = response.lengths ? response.lengths.length > MOST_TOKENS : response.text.length > MOST_CHARACTERS;
  const cut = many && !whole;
  if (!response.lengths || (colouring === "plain" && !query && !response.special.length)) {
    box.append(...shown(cut ? response.text.slice(0, MOST_CHARACTERS) : response.text, query));
  } else if (colouring === "plain") {
    box.append(...plainTokens(response, cut ? MOST_TOKENS : Infinity, query));
  } else box.append(...colouredTokens(response, colouring, scale, query, cut ? MOST_TOKENS : Infinity));
  if (cut) {
    const more = () => box.replaceWith(written(response, colouring, scale, query, true));
    box.append(" ... ", h("button", { type: "button", onclick: more }, `show all ${response.tokens} tokens`));
  }
  return box;
}

/** Stretches of text between special tokens, which are dimmed. */
function plainTokens(response, most, query) {
  const special = new Set(response.special);
  const nodes = [];
  let from = 0;
  let stretch = "";
  response.lengths.slice(0, most).forEach((length, at) => {
    const piece = response.text.slice(from, from + length);
    from += length;
    if (!special.has(at)) {
      stretch += piece;
      return;
    }
    nodes.push(...shown(stretch, query), h("span", { class: "special" }, ...shown(piece)));
    stretch = "";
  });
  return [...nodes, ...shown(stretch, query)];
}

function colouredTokens(response, colouring, scale, query, most) {
  const [special, foreign] = [new Set(response.special), new Set(response.foreign)];
  const hit = places(response, query);
  let from = 0;
  return response.lengths.slice(0, most).map((length, at) => {
    const piece = response.text.slice(from, from + length);
    from += length;
    const classes = [tokenClass(response, at, colouring, scale)];
    if (special.has(at)) classes.push("special");
    if (foreign.has(at)) classes.push("foreign");
    if (hit(from - length, from)) classes.push("hit");
    return h("span", { class: classes.filter(Boolean).join(" ") || null, title: tokenTitle(response, at, foreign) }, ...shown(piece));
  });
}

/** Whether a stretch of the text is part of what was searched, which may span tokens. */
function places(response, query) {
  const starts = [];
  if (query) for (let at = lower(response).indexOf(query); at >= 0; at = lower(response).indexOf(query, at + 1)) starts.push(at);
  return (from, to) => starts.some((start) => start < to && start + query.length > from);
}

function tokenClass(response, at, colouring, scale) {
  if (colouring === "logprob") {
    const nats = (response.logprobs[at] ?? 0) / 100;
    const level = Math.min(6, Math.ceil(nats / 0.8));
    return nats > 0.1 ? `rare t${Math.max(1, level)}` : "";
  }
  const weight = weightOf(response, at);
  if (!weight || !scale) return "";
  const level = Math.max(1, Math.ceil((6 * Math.abs(weight)) / scale));
  return `${weight > 0 ? "plus" : "minus"} t${Math.min(6, level)}`;
}

function tokenTitle(response, at, foreign) {
  if (foreign.has(at)) return `token ${at + 1}, not written by the policy`;
  const lines = [`token ${at + 1}`];
  const hundredths = response.logprobs[at];
  if (hundredths !== null) {
    lines.push(`log-probability ${(-hundredths / 100).toFixed(2)} (${(100 * Math.exp(-hundredths / 100)).toFixed(1)}%)`);
  }
  const weight = weightOf(response, at);
  if (weight !== null) lines.push(`weight ${weight.toExponential(2)}`);
  return lines.join("\n");
}

/** What the colours mean. */
function colourScale(colouring, scale) {
  const steps = (kind) => [1, 2, 3, 4, 5, 6].map((level) => h("i", { class: `${kind} t${level}` }));
  if (colouring === "logprob") return h("span", { class: "scale" }, "likely", ...steps("rare"), "unlikely");
  if (colouring !== "weight") return null;
  if (!scale) return h("span", null, "no token of this group has weight");
  return h("span", { class: "scale" }, `pushed down, ${(-scale).toExponential(1)}`, ...steps("minus").reverse(), ...steps("plus"), `up, ${scale.toExponential(1)}`);
}
