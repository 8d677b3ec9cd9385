// The figures at the top, from the metrics of the host.

import { Chart } from "./charts.js";
import { byId, bytes, count, element, latency, rate, setText } from "./dom.js";
import { buckets, parse, quantile, sum } from "./metrics.js";

/** The samples over which latencies are computed. */
const LATENCY_SAMPLES = 10;

const isError = ({ status }) => /^(5|[a-z])/.test(status);

const per = (number) => `${rate(number)}/s`;

/** Each figure has a name, and returns from two states of the metrics what is shown and drawn. */
const FIGURES = [
  {
    name: "Connections",
    read: ({ now }) => {
      const connections = sum(now, "connections");
      return { value: count(connections), series: [connections], format: count };
    },
  },
  {
    name: "WebSockets",
    read: ({ now }) => {
      const sessions = sum(now, "sessions");
      const holds = sum(now, "holds");
      return { value: count(sessions), note: `${count(holds)} held requests`, series: [sessions], format: count };
    },
  },
  {
    name: "Messages in",
    read: ({ perSecond }) => {
      const received = perSecond("received_messages_total");
      const volume = `${bytes(perSecond("received_bytes_total"))}/s`;
      return { value: per(received), note: volume, series: [received], format: per };
    },
  },
  {
    name: "Messages out",
    read: ({ perSecond }) => {
      const published = perSecond("published_messages_total");
      const replied = perSecond("replied_messages_total");
      const volume = bytes(perSecond("published_bytes_total") + perSecond("replied_bytes_total"));
      return { value: per(published + replied), note: `${volume}/s`, series: [published + replied], format: per };
    },
  },
  {
    name: "Publish to write",
    series: 2,
    read: ({ latencies }) => {
      const [median, high] = [0.5, 0.99].map((fraction) => latencies("delivery_seconds", fraction));
      if (median === undefined) return { value: "–", note: "nothing published", series: [undefined, undefined], format: latency };
      return { value: latency(median), note: `99 %: ${latency(high)}`, series: [median, high], format: latency };
    },
  },
  {
    name: "Component calls",
    series: 2,
    read: ({ perSecond }) => {
      const calls = perSecond("backend_requests_total");
      const errors = perSecond("backend_requests_total", isError);
      const note = errors > 0 ? `${per(errors)} errors` : "no errors";
      return { value: per(calls), note, isBad: errors > 0, series: [calls, errors], format: per };
    },
  },
  {
    name: "Instances",
    read: ({ now }) => {
      const instances = sum(now, "instances");
      return { value: count(instances), series: [instances], format: count };
    },
  },
  {
    name: "Memory",
    read: ({ now }) => {
      const memory = sum(now, "memory_bytes");
      return { value: bytes(memory), series: [memory], format: bytes };
    },
  },
];

export class Figures {
  /** The last metrics with their times, the newest last. */
  #history = [];

  #shown = FIGURES.map(({ name, read, series = 1 }) => {
    const chart = new Chart(series);
    const value = element("p", { className: "value", textContent: "–" });
    const note = element("p", { className: "note" });
    const title = element("h3", { className: "name", textContent: name });
    byId("figures").append(element("li", {}, title, value, note, chart.element));
    return { name, read, chart, value, note };
  });

  /** Shows the metrics in a text. */
  update(text) {
    const time = performance.now();
    const now = parse(text);
    const previous = this.#history.at(-1) ?? { time, metrics: now };
    const oldest = this.#history[0] ?? previous;
    const seconds = (time - previous.time) / 1000;
    // Counters begin anew when the host is restarted.
    const perSecond = (name, accept) =>
      seconds > 0 ? Math.max(0, sum(now, name, accept) - sum(previous.metrics, name, accept)) / seconds : 0;
    const latencies = (name, fraction) => quantile(buckets(now, name), buckets(oldest.metrics, name), fraction);
    for (const { name, read, chart, value, note } of this.#shown) {
      const figure = read({ now, perSecond, latencies });
      setText(value, figure.value);
      setText(note, figure.note ?? "");
      note.classList.toggle("bad", figure.isBad ?? false);
      chart.add(figure.series, name, figure.format);
    }
    this.#history.push({ time, metrics: now });
    if (this.#history.length > LATENCY_SAMPLES) this.#history.shift();
  }
}
