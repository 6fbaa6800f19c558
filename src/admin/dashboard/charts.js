// The last minutes as lines, drawn by uPlot.

import { amount, latency, timeOfDay } from "./format.js";

const WINDOW_S = 300;
/// Where samples are further apart than this the line is broken.
const GAP_S = 3;
/// Steps of an axis for what is counted.
const WHOLE = steps(0, 18);
/// The same for milliseconds: a finer step would show as two equal labels.
const LATENCY = steps(-2, 8);

/// 1, 2 and 5 times each power of ten.
function steps(from, to) {
  const powers = Array.from({ length: to - from }, (_, index) => from + index);
  return powers.flatMap((power) => [1, 2, 5].map((digit) => Number(`${digit}e${power}`)));
}

const minute = (time_s) => timeOfDay(time_s * 1000).slice(0, 5);

const CHARTS = {
  ids: { format: amount, steps: WHOLE, lines: [{ key: "ids_per_s" }] },
  requests: { format: amount, steps: WHOLE, lines: [{ key: "requests_per_s" }] },
  waiting: { format: amount, steps: WHOLE, lines: [{ key: "waiting" }] },
  latency: {
    format: latency,
    steps: LATENCY,
    lines: [
      { key: "reservation_p50_ms", name: "p50" },
      { key: "reservation_p99_ms", name: "p99", dash: [4, 3], color: "--line-2" },
    ],
  },
};

/// All charts, over the same samples and with one cursor.
export class Charts {
  #samples = [];
  #charts = Object.entries(CHARTS).map(([id, chart]) => new Chart(id, chart));

  /// Older samples that are known already stay: a server that was restarted has forgotten them.
  history(samples) {
    const first = samples[0]?.t_ms ?? Infinity;
    this.#samples = [...this.#samples.filter((sample) => sample.t_ms < first), ...samples];
    this.draw();
  }

  sample(sample) {
    this.#samples.push(sample);
    this.draw();
  }

  draw() {
    const now = this.#samples.at(-1)?.t_ms;
    if (now === undefined) return;
    this.#samples = this.#samples.filter((sample) => sample.t_ms > now - WINDOW_S * 1000);
    if (document.hidden) return;
    const whole = withGaps(this.#samples);
    for (const chart of this.#charts) chart.draw(whole, now / 1000);
  }

  /// Takes the colours of the present theme.
  restyle() {
    for (const chart of this.#charts) chart.build();
    this.draw();
  }
}

function withGaps(samples) {
  return samples.flatMap((sample, index) => {
    const before = samples[index - 1];
    const gap = before !== undefined && sample.t_ms - before.t_ms > GAP_S * 1000;
    return gap ? [{ t_ms: before.t_ms + 1000 }, sample] : [sample];
  });
}

class Chart {
  #plot;
  #now;
  #captions;
  #chart;
  #uplot;
  #end_s = 0;

  constructor(id, chart) {
    const figure = document.getElementById(`chart-${id}`);
    this.#plot = figure.querySelector(".plot");
    this.#now = figure.querySelector(".now");
    this.#chart = chart;
    this.#captions = chart.lines.map(({ name }) => {
      const caption = document.createElement("span");
      caption.className = name === undefined ? "" : "line";
      return caption;
    });
    this.#now.replaceChildren(...this.#captions);
    this.build();
    new ResizeObserver(() => this.#uplot.setSize(this.#size())).observe(this.#plot);
  }

  build() {
    const data = this.#uplot?.data ?? [[], ...this.#chart.lines.map(() => [])];
    this.#uplot?.destroy();
    this.#uplot = new uPlot(this.#options(), data, this.#plot);
  }

  draw(samples, end_s) {
    this.#end_s = end_s;
    const values = ({ key }) => samples.map((sample) => sample[key] ?? null);
    const times = samples.map((sample) => sample.t_ms / 1000);
    this.#uplot.setData([times, ...this.#chart.lines.map(values)]);
    this.#caption();
  }

  #size() {
    return { width: Math.max(this.#plot.clientWidth, 120), height: this.#plot.clientHeight };
  }

  #options() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--muted"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: color("--grid"), width: 1 },
      ticks: { show: false },
    };
    const line = ({ key, dash, color: name = "--accent" }) => ({
      label: key,
      stroke: color(name),
      fill: dash ? undefined : color("--accent-fill"),
      width: 1.5,
      dash,
      points: { show: false },
    });
    return {
      ...this.#size(),
      // To the right there is half a label of time.
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "node" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        x: { range: () => [this.#end_s - WINDOW_S, this.#end_s] },
        y: { range: (_u, _min, max) => [0, max > 0 ? max * 1.15 : 1] },
      },
      axes: [
        { ...axis, size: 22, gap: 6, space: 64, incrs: [60, 120, 300], values: (_u, times) => times.map(minute) },
        {
          ...axis,
          size: 56,
          gap: 6,
          space: 24,
          incrs: this.#chart.steps,
          values: (_u, values) => values.map(this.#chart.format),
        },
      ],
      series: [{}, ...this.#chart.lines.map(line)],
      hooks: { setCursor: [() => this.#caption()] },
    };
  }

  /// The value under the cursor, or else the newest.
  #caption() {
    if (this.#uplot === undefined) return;
    const [times, ...lines] = this.#uplot.data;
    const under = this.#uplot.cursor.idx;
    const index = under ?? times.length - 1;
    if (times[index] === undefined) return;
    const text = (values) => (values[index] === null ? "–" : this.#chart.format(values[index]));
    this.#captions.forEach((caption, line) => {
      caption.textContent = [this.#chart.lines[line].name, text(lines[line])].filter(Boolean).join(" ");
    });
    this.#now.dataset.at = under === null || under === undefined ? "" : timeOfDay(times[index] * 1000);
  }
}
