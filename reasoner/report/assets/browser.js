// The browser for responses: the filters, a paged list of groups, the group that is open.

const PER_PAGE = 50;
const MOST_BESIDE = 12;

class Browser {
  constructor(data, root) {
    this.data = data;
    data.range = rewardRange(data.groups);
    this.asked = readAsked(location.hash);
    this.beside = new Set();
    this.page = 0;
    this.form = filterForm(data, this.asked, () => this.changed(), () => this.reset());
    this.count = h("p", { class: "about", "aria-live": "polite", id: "count" });
    this.list = h("ol", { class: "groups" });
    this.pages = h("div", { class: "pages" });
    this.detail = h("div", { class: "detail", id: "group" });
    const key = (name) => h("kbd", null, name);
    const hint = [key("j"), " ", key("k"), " next and previous group, ", key("/"), " search"];
    const keys = h("p", { class: "about keys" }, ...hint);
    const pick = h("div", { class: "pick" }, this.list, this.pages, keys);
    root.append(this.form, this.count, h("div", { class: "browse" }, pick, this.detail));
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => this.follow());
    this.filter();
  }

  changed() {
    const given = new FormData(this.form);
    for (const key of KEYS) if (given.has(key)) this.asked[key] = given.get(key);
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
    history.replaceState(null, "", `#${writeAsked(this.asked) || "responses"}`);
  }

  filter() {
    this.found = filtered(this.data, this.asked);
    const responses = plural(this.found.reduce((sum, each) => sum + each.fitting.size, 0), "response", "responses");
    this.count.textContent = `${responses} in ${plural(this.found.length, "group", "groups")}`;
    const wanted = this.found.findIndex((each) => String(each.index) === this.asked.group);
    this.open(wanted >= 0 ? wanted : this.first());
  }

  /** Where nothing is asked for, a training group with differences shows most. */
  first() {
    if (writeAsked({ ...this.asked, tokens: "" })) return 0;
    const telling = ({ group }) => group.training && new Set(rewards(group)).size > 1;
    return Math.max(0, this.found.findIndex(telling));
  }

  /** Open the group at a place of the list. */
  open(place) {
    this.place = place;
    this.beside.clear();
    this.page = Math.floor(place / PER_PAGE);
    keepFocus(this.list, () => this.showList());
    this.redraw();
  }

  choose(place) {
    this.open(place);
    this.asked.group = String(this.found[place].index);
    this.remember();
  }

  turn(pages) {
    this.page += pages;
    keepFocus(this.pages, () => this.showList());
    this.list.scrollTop = 0;
  }

  showList() {
    const first = this.page * PER_PAGE;
    const rows = this.found.slice(first, first + PER_PAGE).map((each, at) => this.row(each, first + at));
    this.list.replaceChildren(...(rows.length ? rows : [h("li", { class: "empty" }, "No group matches.")]));
    const last = Math.ceil(this.found.length / PER_PAGE) - 1;
    this.pages.hidden = last < 1;
    this.pages.replaceChildren(
      button("Back", () => this.turn(-1), { disabled: this.page === 0 }),
      `page ${this.page + 1} of ${last + 1}`,
      button("On", () => this.turn(1), { disabled: this.page >= last }));
    // Only the list may move, not the page.
    const current = this.list.querySelector('[aria-current="true"]');
    if (current) this.list.scrollTop = current.offsetTop - this.list.offsetTop - this.list.clientHeight / 2;
  }

  row({ group, fitting }, place) {
    const problem = this.data.problems[group.problem];
    const question = problem.messages[problem.messages.length - 1]?.[1] ?? "";
    const dims = asksOfResponses(this.asked);
    const marks = group.responses.map((each, at) => rewardMark(each, this.data.range, dims && !fitting.has(at)));
    const dropped = group.dropped ? ", dropped" : "";
    const text = [
      span("row-head", span("", ...shown(`${momentName(group)}${dropped} · ${problem.id}`)), span("", short(mean(group)))),
      h("span", { class: "row-text", dir: "auto" }, ...shown(question.slice(0, 160))),
      span("marks", ...marks),
    ];
    return h("li", null, h("button",
      { type: "button", "aria-current": String(place === this.place), onclick: () => this.choose(place) }, ...text));
  }

  redraw() {
    keepFocus(this.detail, () => this.showGroup());
  }

  showGroup() {
    const here = this.found[this.place];
    if (!here) {
      this.detail.replaceChildren();
      return;
    }
    const { data } = this;
    const { group } = here;
    const query = this.asked.q.toLowerCase();
    const fitting = asksOfResponses(this.asked) ? here.fitting : null;
    const others = data.groups.filter((other) => other !== group && this.sameProblem(other, group));
    const run = data.runs.length > 1 ? `${data.runs[group.run]} · ` : "";
    const title = `${run}${momentName(group)} · ${data.problems[group.problem].id}`;
    const beside = others.filter((other) => this.beside.has(other)).flatMap((other) => [
      h("h3", null, this.momentOf(other, group)), cardsOf(data, other, null, this.colouring(), query)]);
    this.detail.replaceChildren(
      h("div", { class: "detail-head" }, h("h3", null, ...shown(title)),
        span("", this.stepper("Previous", -1), " ", this.stepper("Next", 1))),
      promptBox(data.problems[group.problem], query),
      this.tools(group, others.slice(0, MOST_BESIDE)),
      cardsOf(data, group, fitting, this.colouring(), query),
      ...beside);
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
    return button(text, () => this.choose(place), { disabled: !this.found[place] });
  }

  tools(group, others) {
    const split = group.responses.filter((each) => each.lengths);
    const can = { plain: true, logprob: split.length > 0, weight: split.some((each) => each.weights !== null) };
    const used = can[this.colouring()] ? this.colouring() : "plain";
    const kinds = Object.keys(COLOURINGS).filter((kind) => can[kind]);
    const toggle = (text, on, act) => button(text, act, { "aria-pressed": String(on) });
    const colours = kinds.map((kind) => toggle(COLOURINGS[kind], kind === used, () => this.colour(kind)));
    const beside = others.map((other) =>
      toggle(this.momentOf(other, group), this.beside.has(other), () => this.toggle(other)));
    const parts = this.detail.classList.contains("parts");
    return h("div", { class: "tools" },
      ...(colours.length > 1 ? ["Tokens by", ...colours, colourScale(used, largestWeight(group))] : []),
      span("gap"), toggle("all parts of scores", parts, () => this.parts()),
      ...(beside.length ? [span("gap"), "Same problem:", ...beside] : []));
  }

  parts() {
    this.detail.classList.toggle("parts");
    this.redraw();
  }

  colouring() {
    return COLOURINGS[this.asked.tokens] ? this.asked.tokens : "logprob";
  }

  colour(kind) {
    this.asked.tokens = kind;
    this.redraw();
    this.remember();
  }

  toggle(other) {
    if (!this.beside.delete(other)) this.beside.add(other);
    this.redraw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    const place = this.place + ({ j: 1, k: -1 }[event.key] ?? 0);
    if (place !== this.place && this.found[place]) this.choose(place);
    if (event.key === "/") {
      event.preventDefault();
      this.form.elements.q.focus();
    }
  }
}

/** Draw an area again, and give the focus back to the button with the same text. */
function keepFocus(area, draw) {
  const text = area.contains(document.activeElement) ? document.activeElement.textContent : null;
  draw();
  const same = [...area.querySelectorAll("button")].find((each) => each.textContent === text);
  same?.focus({ preventScroll: true });
}

function rewardRange(groups) {
  const range = { low: Infinity, high: -Infinity };
  for (const { reward } of groups.flatMap((group) => group.responses)) {
    if (reward === null) continue;
    range.low = Math.min(range.low, reward);
    range.high = Math.max(range.high, reward);
  }
  return range;
}
