// Charts: the values of the step under the pointer, or under the arrow keys. The drawings themselves are in the page.

function watchCharts(charts) {
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const chart = charts[figure.dataset.chart];
    if (chart) new Crosshair(figure, chart);
  }
  for (const toggle of document.querySelectorAll(".toggle")) {
    toggle.addEventListener("change", () => {
      const hidden = !toggle.checked;
      const parts = document.querySelectorAll(`.charts .s${toggle.dataset.run}`);
      for (const part of parts) part.classList.toggle("off", hidden);
    });
  }
}

class Crosshair {
  constructor(figure, chart) {
    this.chart = chart;
    this.plot = figure.querySelector("svg");
    this.steps = [...new Set(chart.series.flatMap((series) => series.steps))].sort((a, b) => a - b);
    this.at = this.steps.length - 1;
    this.plot.setAttribute("tabindex", "0");
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.hide());
    this.plot.addEventListener("blur", () => this.hide());
    this.plot.addEventListener("focus", () => this.plot.matches(":focus-visible") && this.show());
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  pixel(step) {
    const [low, high, start, end] = this.chart.x;
    return start + ((step - low) / (high - low)) * (end - start);
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.plot.viewBox.baseVal.width;
    let best = 0;
    this.steps.forEach((step, at) => {
      if (Math.abs(this.pixel(step) - x) < Math.abs(this.pixel(this.steps[best]) - x)) best = at;
    });
    this.at = best;
    this.show();
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -this.steps.length, End: this.steps.length }[event.key];
    if (event.key === "Escape") this.hide();
    if (move === undefined) return;
    event.preventDefault();
    this.at = Math.max(0, Math.min(this.steps.length - 1, this.at + move));
    this.show();
  }

  show() {
    if (!this.steps.length) return;
    const step = this.steps[this.at];
    const x = this.pixel(step);
    if (!this.line) {
      this.line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      this.line.setAttribute("class", "cross");
      this.line.setAttribute("y1", "10");
      this.line.setAttribute("y2", String(this.plot.viewBox.baseVal.height - 30));
      this.plot.append(this.line);
    }
    this.line.setAttribute("x1", x);
    this.line.setAttribute("x2", x);
    this.tip(step, x);
  }

  tip(step, x) {
    const rows = this.chart.series.map((series) => this.row(series, step)).filter((row) => row);
    const tip = document.getElementById("tip");
    tip.replaceChildren(h("p", null, `step ${Math.round(step)}`), ...rows);
    tip.hidden = false;
    const box = this.plot.getBoundingClientRect();
    const left = box.left + (x / this.plot.viewBox.baseVal.width) * box.width;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${window.scrollX + Math.max(8, Math.min(left + 12, room))}px`;
    tip.style.top = `${window.scrollY + box.top - tip.offsetHeight - 4}px`;
  }

  row(series, step) {
    const at = series.steps.indexOf(step);
    if (at < 0) return null;
    const unit = this.chart.unit;
    const value = figure(series.values[at], unit);
    const half = series.half[at] ?? null;
    const [low, high] = [series.low[at] ?? null, series.high[at] ?? null];
    const bounds = low === null ? "" : ` [${figure(low, unit)}, ${figure(high, unit)}]`;
    const range = half === null ? bounds : ` ± ${figure(half, unit)}`;
    return h("p", null, span(`swatch c${series.colour}`), `${series.label}: ${value}${range}`);
  }

  hide() {
    document.getElementById("tip").hidden = true;
    this.line?.remove();
    this.line = null;
  }
}
