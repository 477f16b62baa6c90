// The browser for responses: filters, a paged list of groups, the group that is open.

const PER_PAGE = 50;

class Browser {
  constructor(data, root) {
    this.data = data;
    data.range = rewardRange(data.groups);
    this.asked = readAsked(location.hash);
    this.beside = new Set();
    this.page = 0;
    this.form = this.filters();
    this.count = h("p", { class: "about", "aria-live": "polite", id: "count" });
    this.list = h("ol", { class: "groups" });
    this.pages = h("div", { class: "pages" });
    this.detail = h("div", { class: "detail", id: "group" });
    const keys = h("p", { class: "about keys" }, h("kbd", null, "j"), " ", h("kbd", null, "k"), " next and previous group, ", h("kbd", null, "/"), " search");
    root.append(this.form, this.count, h("div", { class: "browse" }, h("div", { class: "pick" }, this.list, this.pages, keys), this.detail));
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => this.follow());
    this.filter();
  }

  filters() {
    const { data } = this;
    const field = (label, name, kind, extra) =>
      h("label", { class: name === "q" ? "search" : null }, label,
        h("input", { name, type: kind, value: this.asked[name], autocomplete: "off", ...extra }));
    const choice = (label, name, options) =>
      h("label", null, label, h("select", { name }, ...options.map(([value, text]) => h("option", { value, selected: value === this.asked[name] }, text))));
    const any = ["", "any"];
    const moments = [...new Map(data.groups.map((group) => [moment(group), momentName(group)]))];
    const form = h("form", { class: "filters", role: "search" },
      field("Text in prompt or response", "q", "search"),
      field("Problem", "problem", "search"),
      data.runs.length > 1 ? choice("Run", "run", [any, ...data.runs.map((name, at) => [String(at), name])]) : null,
      choice("When", "when", [any, ["train", "all training steps"], ["eval", "all evaluations"], ...moments]),
      field("Reward from", "min", "number", { step: "any", class: "number" }),
      field("to", "max", "number", { step: "any", class: "number" }),
      choice("Component", "source", [any, ...data.sources.map((name, at) => [String(at), name])]),
      choice("is", "verdict", [any, ...Object.entries(VERDICTS).map(([key, [text]]) => [key, text])]),
      choice("Ended", "finish", [any, ["stop", "by itself"], ["length", "cut at the limit"]]),
      choice("Order", "sort", Object.entries(SORTS).map(([key, [text]]) => [key, text])),
      h("button", { type: "button", onclick: () => this.reset() }, "Reset"));
    let waiting = 0;
    form.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.changed(), 120);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    return form;
  }

  changed() {
    const given = new FormData(this.form);
    for (const key of Object.keys(NOTHING_ASKED)) if (given.has(key)) this.asked[key] = given.get(key);
    this.asked.group = "";
    this.filter();
    this.remember();
  }

  reset() {
    this.asked = { ...NOTHING_ASKED, tokens: this.asked.tokens };
    this.fill();
    this.filter();
    this.remember();
  }

  /** A link inside the page asked for something. */
  follow() {
    if (!location.hash.includes("=")) return;
    this.asked = readAsked(location.hash);
    this.fill();
    this.filter();
    document.getElementById("responses").scrollIntoView();
  }

  fill() {
    for (const field of this.form.elements) if (field.name) field.value = this.asked[field.name];
  }

  remember() {
    const text = writeAsked(this.asked);
    history.replaceState(null, "", text ? `#${text}` : "#responses");
  }

  filter() {
    this.found = filtered(this.data, this.asked);
    const responses = this.found.reduce((sum, each) => sum + each.fitting.size, 0);
    this.count.textContent = `${plural(responses, "response", "responses")} in ${plural(this.found.length, "group", "groups")}`;
    const wanted = this.found.findIndex((each) => String(each.index) === this.asked.group);
    // Nothing asked for: a training group with differences shows most.
    const first = writeAsked({ ...this.asked, tokens: "" }) ? 0 : this.found.findIndex(({ group }) => group.training && Math.max(...rewards(group)) > Math.min(...rewards(group)));
    this.open(Math.max(0, wanted, wanted < 0 ? first : 0));
  }

  /** Open the group at a place of the list. */
  open(place) {
    this.place = place;
    this.beside.clear();
    this.page = Math.floor(place / PER_PAGE);
    this.showList();
    this.showGroup();
  }

  choose(place) {
    this.open(place);
    this.asked.group = String(this.found[place].index);
    this.remember();
  }

  turn(pages) {
    this.page += pages;
    this.showList();
    this.list.scrollTop = 0;
  }

  showList() {
    const first = this.page * PER_PAGE;
    const rows = this.found.slice(first, first + PER_PAGE).map((each, at) => this.row(each, first + at));
    this.list.replaceChildren(...(rows.length ? rows : [h("li", { class: "empty" }, "Nothing fits.")]));
    const last = Math.ceil(this.found.length / PER_PAGE) - 1;
    const button = (text, pages, off) => h("button", { type: "button", disabled: off, onclick: () => this.turn(pages) }, text);
    this.pages.hidden = last < 1;
    this.pages.replaceChildren(button("Back", -1, this.page === 0), `page ${this.page + 1} of ${last + 1}`, button("On", 1, this.page >= last));
    this.list.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
  }

  row(each, place) {
    const { group, fitting } = each;
    const problem = this.data.problems[group.problem];
    const question = problem.messages[problem.messages.length - 1]?.[1] ?? "";
    const asked = asksOfResponses(this.asked);
    return h("li", null, h("button", { type: "button", "aria-current": String(place === this.place), onclick: () => this.choose(place) },
      h("span", { class: "row-head" }, h("span", null, ...shown(`${momentName(group)} · ${problem.id}`)), h("span", null, short(mean(group)))),
      h("span", { class: "row-text", dir: "auto" }, ...shown(question.slice(0, 160))),
      h("span", { class: "marks" }, ...group.responses.map((response, at) => rewardMark(response, this.data.range, asked && !fitting.has(at))))));
  }

  showGroup() {
    const here = this.found[this.place];
    if (!here) {
      this.detail.replaceChildren();
      return;
    }
    const { group } = here;
    const query = this.asked.q.toLowerCase();
    const fitting = asksOfResponses(this.asked) ? here.fitting : null;
    const others = this.data.groups.filter((other) => other !== group && this.sameProblem(other, group));
    const several = this.data.runs.length > 1 ? `${this.data.runs[group.run]} · ` : "";
    this.detail.replaceChildren(
      h("div", { class: "detail-head" },
        h("h3", null, ...shown(`${several}${momentName(group)} · ${this.data.problems[group.problem].id}`)),
        h("span", null, this.stepper("Previous", -1), " ", this.stepper("Next", 1))),
      promptBox(this.data.problems[group.problem], query),
      this.tools(group, others.slice(0, 12)),
      cardsOf(this.data, group, fitting, this.colouring(), query),
      ...others.filter((other) => this.beside.has(other)).flatMap((other) => [
        h("h3", null, this.momentOf(other, group)),
        cardsOf(this.data, other, null, this.colouring(), query)]));
  }

  sameProblem(one, other) {
    const [a, b] = [this.data.problems[one.problem], this.data.problems[other.problem]];
    return a === b || (a.id === b.id && searchable(a) === searchable(b));
  }

  momentOf(other, group) {
    return other.run === group.run ? momentName(other) : `${this.data.runs[other.run]}: ${momentName(other)}`;
  }

  stepper(text, by) {
    const place = this.place + by;
    return h("button", { type: "button", disabled: place < 0 || place >= this.found.length, onclick: () => this.choose(place) }, text);
  }

  tools(group, others) {
    const scale = largestWeight(group);
    const can = { plain: true, logprob: group.responses.some((each) => each.lengths), weight: group.responses.some((each) => each.lengths && each.weights !== null) };
    const used = can[this.colouring()] ? this.colouring() : "plain";
    const kinds = Object.entries(COLOURINGS).filter(([kind]) => can[kind]);
    const buttons = kinds.map(([kind, text]) => h("button", { type: "button", "aria-pressed": String(kind === used), onclick: () => this.colour(kind) }, text));
    const beside = others.map((other) =>
      h("button", { type: "button", "aria-pressed": String(this.beside.has(other)), onclick: () => this.toggle(other) }, this.momentOf(other, group)));
    return h("div", { class: "tools" }, ...(kinds.length > 1 ? ["Tokens by", ...buttons, colourScale(used, scale)] : []),
      ...(beside.length ? [h("span", { class: "gap" }), "Same problem:", ...beside] : []));
  }

  colouring() {
    return COLOURINGS[this.asked.tokens] ? this.asked.tokens : "logprob";
  }

  colour(kind) {
    this.asked.tokens = kind;
    this.showGroup();
    this.remember();
  }

  toggle(other) {
    if (!this.beside.delete(other)) this.beside.add(other);
    this.showGroup();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    const by = { j: 1, k: -1 }[event.key];
    if (by && this.found[this.place + by]) this.choose(this.place + by);
    if (event.key === "/") {
      event.preventDefault();
      this.form.elements.q.focus();
    }
  }
}

function rewardRange(groups) {
  const range = { low: Infinity, high: -Infinity };
  for (const group of groups) {
    for (const { reward } of group.responses) {
      if (reward === null) continue;
      range.low = Math.min(range.low, reward);
      range.high = Math.max(range.high, reward);
    }
  }
  return range;
}
