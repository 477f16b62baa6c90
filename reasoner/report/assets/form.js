// The form that asks which responses to show.

function filterForm(data, asked, changed, reset) {
  const text = (label, name, attributes) =>
    h("label", { class: name === "q" ? "search" : null }, label,
      h("input", { name, type: "search", value: asked[name], autocomplete: "off", ...attributes }));
  const choice = (label, name, options) => {
    const entry = ([value, title]) => h("option", { value, selected: value === asked[name] }, title);
    return h("label", null, label, h("select", { name }, ...options.map(entry)));
  };
  const any = ["", "any"];
  const titles = (table) => Object.entries(table).map(([key, [title]]) => [key, title]);
  const numbered = (names) => names.map((name, at) => [String(at), name]);
  const moments = [...new Map(data.groups.map((group) => [moment(group), momentName(group)]))];
  const trained = [["trained", "trained on"], ["dropped", "dropped, not trained on"]];
  const parts = data.groups.some((group) => group.dropped) ? trained : [];
  const number = { type: "number", step: "any", class: "number" };
  const form = h("form", { class: "filters", role: "search" },
    text("Text in prompt or response", "q"),
    text("Problem", "problem"),
    data.runs.length > 1 ? choice("Run", "run", [any, ...numbered(data.runs)]) : null,
    choice("When", "when", [any, ["train", "all training steps"], ["eval", "all evaluations"], ...parts,
      ...moments]),
    text("Reward from", "min", number),
    text("to", "max", number),
    choice("Component", "source", [any, ...numbered(data.sources)]),
    choice("is", "verdict", [any, ...titles(VERDICTS)]),
    choice("Ended", "finish", [any, ["stop", "on its own"], ["length", "cut at the limit"]]),
    choice("Order", "sort", titles(SORTS)),
    button("Reset", reset));
  let waiting = 0;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(changed, 120);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  return form;
}
