// One group: its prompt, its responses side by side, what the verifiers said.

/** A mark of a response's reward, as a colour between the lowest and the highest of the report. */
function rewardMark(response, range, out) {
  const fits = out ? " out" : "";
  if (response.reward === null) return h("span", { class: `mark abstained${fits}`, title: "abstained" });
  const share = range.high > range.low ? (response.reward - range.low) / (range.high - range.low) : 0;
  return h("span", { class: `mark r${Math.round(4 * share)}${fits}`, title: `reward ${short(response.reward)}` });
}

function promptBox(problem, query) {
  const turns = problem.messages.map(([role, content]) =>
    h("div", { class: "message" }, h("span", { class: "role" }, role), h("div", { class: "written", dir: "auto" }, ...shown(content, query)))
  );
  // Worked examples and a system message come before what is asked; long ones are folded.
  const before = turns.slice(0, -1);
  const folded = before.length ? [h("details", null, h("summary", null, plural(before.length, "message before it", "messages before it")), ...before)] : [];
  const answer = h("div", { class: "message" }, h("span", { class: "role" }, "reference"), h("div", { class: "written", dir: "auto" }, ...shown(problem.answer, query)));
  return h("div", { class: "prompt" }, ...folded, turns[turns.length - 1], answer);
}

function cardsOf(data, group, fitting, colouring, query) {
  const scale = largestWeight(group);
  const cards = group.responses.map((each, at) => {
    const out = fitting !== null && !fitting.has(at);
    return h("article", { class: `card${out ? " out" : ""}`, "aria-label": `response ${each.sample + 1}` },
      cardHead(data, each), verdicts(data, each), written(each, each.lengths ? colouring : "plain", scale, query));
  });
  return h("div", { class: "cards" }, ...cards);
}

function cardHead(data, each) {
  const credit = each.credit === null ? null : h("span", { class: each.credit > 0 ? "up" : each.credit < 0 ? "down" : null }, `credit ${signed(each.credit)}`);
  const finish = each.finish === "length" ? h("span", { class: "cut" }, "cut at the limit") : null;
  return h("div", { class: "card-head" }, `#${each.sample + 1}`, rewardMark(each, data.range, false),
    h("b", null, each.reward === null ? "abstained" : `reward ${short(each.reward)}`), credit, h("span", null, plural(each.tokens, "token", "tokens")), finish);
}

function verdicts(data, each) {
  const rows = Object.entries(each.components).flatMap(([source, found]) => {
    const value = found.failure ? "failed" : found.value === null ? "n/a" : short(found.value);
    const factor = found.weight === 1 || found.value === null ? "" : ` × ${short(found.weight)}`;
    return [h("span", null, ...shown(data.sources[source])), h("span", { class: `value${found.failure ? " failure" : ""}` }, value + factor),
      h("span", { class: "why" }, ...why(found))];
  });
  return rows.length ? h("div", { class: "verdict" }, ...rows) : null;
}

/** The extracted answer, the other parts, the note, the failure. */
function why(found) {
  const parts = [];
  if ("extracted" in found.parts) {
    const answer = found.parts.extracted;
    parts.push(answer === null || answer === "" ? "no answer found" : h("span", { class: "extracted", dir: "auto" }, ...shown(String(answer))));
  }
  for (const [name, part] of Object.entries(found.parts)) {
    if (name !== "extracted" && part !== null) parts.push(h("span", null, ...shown(`${name}: ${typeof part === "number" ? short(part) : part}`)));
  }
  if (found.note) parts.push(h("span", { dir: "auto" }, ...shown(found.note)));
  if (found.failure) {
    parts.push(h("span", { class: "failure" }, ...shown(`${found.failure.kind} after ${found.failure.seconds} s: ${found.failure.message}`)));
  }
  return parts.flatMap((part, at) => (at ? [" · ", part] : [part]));
}
