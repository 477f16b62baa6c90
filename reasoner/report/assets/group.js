// One group: its prompt, its responses side by side, what the verifiers said.

/** A mark of a response's reward, as a colour between the lowest and the highest of the report. */
function rewardMark(response, range, out) {
  const kind = `mark${out ? " out" : ""}`;
  if (response.reward === null) return h("span", { class: `${kind} abstained`, title: "abstained" });
  const share = range.high > range.low ? (response.reward - range.low) / (range.high - range.low) : 0;
  return h("span", { class: `${kind} r${Math.round(4 * share)}`, title: `reward ${short(response.reward)}` });
}

/** What was asked, and the reference answer. A system message and worked examples come before it and are folded. */
function promptBox(problem, query) {
  const turn = (role, content) => {
    const text = h("div", { class: "written", dir: "auto" }, ...shown(content, query));
    return h("div", { class: "message" }, span("role", role), text);
  };
  const turns = problem.messages.map(([role, content]) => turn(role, content));
  const before = turns.slice(0, -1);
  const count = plural(before.length, "message before it", "messages before it");
  const folded = before.length ? h("details", null, h("summary", null, count), ...before) : null;
  return h("div", { class: "prompt" }, folded, turns[turns.length - 1], turn("reference", problem.answer));
}

function cardsOf(data, group, fitting, colouring, query) {
  const scale = largestWeight(group);
  const cards = group.responses.map((each, at) => {
    const kind = fitting !== null && !fitting.has(at) ? "card out" : "card";
    const text = each.turns.length ? turnsOf(each, colouring, scale, query)
      : written(each, each.lengths ? colouring : "plain", scale, query);
    const label = `response ${each.sample + 1}`;
    return h("article", { class: kind, "aria-label": label }, cardHead(data, group, each), verdicts(data, each), text);
  });
  return h("div", { class: "cards" }, ...cards);
}

/** The turns of a response, each with who speaks; calls, results and what went wrong stand with them. */
function turnsOf(each, colouring, scale, query) {
  return h("div", { class: "turns" }, ...each.turns.map((turn) => {
    const part = partOf(each, turn);
    return h("div", { class: `turn ${turn.role}` }, turnHead(turn),
      written(part, part.lengths ? colouring : "plain", scale, query), ...turn.calls.map(callOf));
  }));
}

function turnHead(turn) {
  const who = { assistant: "policy", user: "environment", tool: `result of ${turn.tool}` }[turn.role];
  const time = turn.seconds >= 0.05 ? span("", `${turn.seconds.toFixed(1)} s`) : null;
  const error = turn.error ? span("failure", ...shown(turn.error)) : null;
  return h("div", { class: "turn-head" }, h("b", null, ...shown(who)), time, error);
}

function callOf(call) {
  const text = call.name ? `${call.name}(${call.arguments})` : "a call that cannot be read";
  const error = call.error ? span("failure", ` ${call.error}`) : null;
  return h("div", { class: "call" }, "calls ", h("code", null, ...shown(text)), error);
}

function cardHead(data, group, each) {
  const push = each.credit > 0 ? "up" : each.credit < 0 ? "down" : "";
  return h("div", { class: "card-head" }, `#${each.sample + 1}`, rewardMark(each, data.range, false),
    h("b", null, each.reward === null ? "abstained" : `reward ${short(each.reward)}`),
    each.credit === null ? null : span(push, `credit ${signed(each.credit)}`),
    group.dropped ? span("", "not trained on") : null,
    span("", plural(each.tokens, "token", "tokens")),
    each.turns.length ? span("", plural(each.turns.filter((turn) => turn.role === "assistant").length, "turn", "turns")) : null,
    each.finish === "length" ? span("cut", "cut at the limit") : null,
    each.finish === "repetition" ? span("cut", "repeats itself") : null);
}

function verdicts(data, each) {
  const cells = Object.entries(each.components).flatMap(([source, found]) => {
    const value = found.failure ? "failed" : found.value === null ? "n/a" : short(found.value);
    const factor = found.weight === 1 || found.value === null ? "" : ` × ${short(found.weight)}`;
    const kind = found.failure ? "value failure" : "value";
    return [span("", ...shown(data.sources[source])), span(kind, value + factor), span("why", ...why(found))];
  });
  return cells.length ? h("div", { class: "verdict" }, ...cells) : null;
}

/** The extracted answer, the note, the failure; then the other parts, which show on demand. */
function why(found) {
  const parts = [];
  const { extracted, ...others } = found.parts;
  if (extracted === null || extracted === "") parts.push("no answer found");
  else if (extracted !== undefined) {
    parts.push(h("span", { class: "extracted", dir: "auto" }, ...shown(String(extracted))));
  }
  if (found.note) parts.push(h("span", { dir: "auto" }, ...shown(found.note)));
  if (found.failure) {
    const { kind, seconds, message } = found.failure;
    parts.push(span("failure", ...shown(`${kind} after ${seconds} s: ${message}`)));
  }
  const rest = Object.entries(others).filter(([, part]) => part !== null).map(([name, part]) =>
    span("part", ...shown(`${name}: ${typeof part === "number" ? short(part) : part}`)));
  return [...parts.flatMap((part, at) => (at ? [" · ", part] : [part])), ...rest];
}
