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
  const all = group.responses.flatMap(({ weights }) => (typeof weights === "number" ? [weights] : weights || [0]));
  return all.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0);
}

/** One turn of a response, as `written` takes a whole one. */
function partOf(response, turn) {
  const [from, to] = turn.text;
  const inside = (places) => places.filter((at) => at >= turn.first && at < turn.end).map((at) => at - turn.first);
  const slice = (values) => (Array.isArray(values) ? values.slice(turn.first, turn.end) : values);
  const part = { text: response.text.slice(from, to), logprobs: slice(response.logprobs), tokens: turn.end - turn.first,
    weights: slice(response.weights), before: turn.first };
  if (!response.lengths) return part;
  return { ...part, lengths: slice(response.lengths), special: inside(response.special), foreign: inside(response.foreign) };
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
    box.append(" ... ", button(`show all ${response.tokens} tokens`, more));
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
    nodes.push(...shown(stretch, query), span("special", ...shown(piece)));
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
    const kind = classes.filter(Boolean).join(" ") || null;
    return h("span", { class: kind, title: tokenTitle(response, at, foreign) }, ...shown(piece));
  });
}

/** Whether a stretch of the text is part of what was searched, which may span tokens. */
function places(response, query) {
  const starts = [];
  const text = lower(response);
  for (let at = query ? text.indexOf(query) : -1; at >= 0; at = text.indexOf(query, at + 1)) starts.push(at);
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
  const number = at + 1 + (response.before ?? 0);
  if (foreign.has(at)) return `token ${number}, not written by the policy`;
  const lines = [`token ${number}`];
  const hundredths = response.logprobs[at];
  if (hundredths !== null) {
    const logprob = -hundredths / 100;
    lines.push(`log-probability ${logprob.toFixed(2)} (${(100 * Math.exp(logprob)).toFixed(1)}%)`);
  }
  const weight = weightOf(response, at);
  if (weight !== null) lines.push(`weight ${weight.toExponential(2)}`);
  return lines.join("\n");
}

/** What the colours mean. */
function colourScale(colouring, scale) {
  const steps = (kind) => [1, 2, 3, 4, 5, 6].map((level) => h("i", { class: `${kind} t${level}` }));
  if (colouring === "logprob") return span("scale", "likely", ...steps("rare"), "unlikely");
  if (colouring !== "weight") return null;
  if (!scale) return span("", "no token of this group has a weight");
  const [down, up] = [`pushed down, ${(-scale).toExponential(1)}`, `up, ${scale.toExponential(1)}`];
  return span("scale", down, ...steps("minus").reverse(), ...steps("plus"), up);
}
