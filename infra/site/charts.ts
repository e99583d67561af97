/** Draws the documents' charts as SVG in the reader's light or dark theme. Pure. */

/** A mean over texts with its 95% interval, in nats a token. */
interface Gain {
  mean: number;
  ci95: [number, number];
}

interface MemoryFigures {
  rows: { group: string; name: string; gains: Record<string, Gain> }[];
  groups: { group: string; gains: Record<string, { gain: Gain }> }[];
}

interface Bar {
  label: string;
  value: number;
  interval?: [number, number];
  /** A bar that is only for comparison is pale. */
  isReference: boolean;
}

interface Scale {
  step: number;
  textOf: (value: number) => string;
}

const colours = {
  light: { paper: "#ffffff", ink: "#1c2b27", faint: "#5b6b66", bar: "#0b6e5a", reference: "#a9c4bc", grid: "#d5dedb" },
  dark: { paper: "#1b1b1f", ink: "#e6ecea", faint: "#a3b1ac", bar: "#4cc2a5", reference: "#44645b", grid: "#3a4441" },
};
const row = 26;
const labelWidth = 240;
const barWidth = 400;
const margin = 20;

const style = (theme: (typeof colours)["light"]) =>
  `.paper{fill:${theme.paper}}text{fill:${theme.ink}}.faint{fill:${theme.faint}}.bar{fill:${theme.bar}}.reference{fill:${theme.reference}}.interval{stroke:${theme.ink}}.grid{stroke:${theme.grid}}`;

/** Share by which a gain in nats a token lowers perplexity. */
const saved = (nats: number) => 1 - Math.exp(-nats);
const percent = (share: number) =>
  `${(100 * share).toFixed(share !== 0 && Math.abs(share) < 0.01 ? 1 : 0)}%`.replace("-", "−");

const savedBar = (label: string, { mean, ci95 }: Gain, isReference = false): Bar => ({
  ...{ label, value: saved(mean), isReference },
  interval: [saved(ci95[0]), saved(ci95[1])],
});

function barChart(title: string, bars: readonly Bar[], { step, textOf }: Scale): string {
  const ends = bars.flatMap(({ value, interval = [] }) => [value, ...interval]);
  const least = Math.min(0, ...ends);
  const most = Math.max(...ends);
  const x = (value: number) => (labelWidth + (barWidth * (value - least)) / (most - least)).toFixed(1);
  const height = margin + 30 + row * bars.length + 34;
  const drawn = bars.map(({ label, value, interval, isReference }, index) => {
    const top = margin + 30 + row * index;
    const [from, to] = [Math.min(0, value), Math.max(0, value)];
    const middle = top + row / 2;
    const line = interval ? `\n<path class="interval" d="M${x(interval[0])} ${middle}H${x(interval[1])}"/>` : "";
    return `<text x="${labelWidth - 8}" y="${middle + 4}" text-anchor="end">${label}</text>
<rect class="${isReference ? "reference" : "bar"}" x="${x(from)}" y="${top + 4}" width="${(Number(x(to)) - Number(x(from))).toFixed(1)}" height="${row - 8}" rx="2"/>${line}
<text class="faint" x="${labelWidth + barWidth + 10}" y="${middle + 4}">${textOf(value)}</text>`;
  });
  const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
  const bottom = margin + 30 + row * bars.length;
  const grid = ticks.map(
    (value) =>
      `<path class="grid" d="M${x(value)} ${margin + 26}V${bottom}"/><text class="faint" x="${x(value)}" y="${bottom + 18}" text-anchor="middle">${textOf(value)}</text>`,
  );
  const width = labelWidth + barWidth + 90;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-labelledby="title">
<title id="title">${title}</title>
<style>svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-size:13px}.interval{stroke-width:1.5}.name{font-weight:600}${style(colours.light)}@media (prefers-color-scheme:dark){${style(colours.dark)}}</style>
<rect class="paper" width="${width}" height="${height}" rx="8"/>
<text class="name" x="${margin}" y="${margin + 8}">${title}</text>
${grid.join("\n")}
${drawn.join("\n")}
</svg>
`;
}

function memoryCharts({ rows, groups }: MemoryFigures): Record<string, string> {
  const fresh = groups.find(({ group }) => group === "fresh")?.gains;
  if (!fresh) throw new TypeError("no figures of fresh kinds");
  const byTokens: Bar[] = [
    savedBar("nothing known", fresh.mixture.gain, true),
    ...[1_000, 4_000, 6_000].map((tokens) =>
      savedBar(`memory of ${tokens.toLocaleString("en")} tokens`, fresh[`own ${tokens}`].gain),
    ),
    savedBar("memory and adapters, as served", fresh["mixture, own"].gain),
    savedBar("best passage in the prompt", fresh.passage.gain, true),
    savedBar("memory of another kind of text", fresh.foreign.gain, true),
  ];
  const byKind = rows
    .filter(({ group }) => group === "fresh")
    .map(({ name, gains }) => savedBar(name, gains["mixture, own"]))
    .sort((a, b) => b.value - a.value);
  return {
    "gain-by-tokens.svg": barChart("Perplexity saved, mean of twelve fresh kinds of text", byTokens, {
      step: 0.05,
      textOf: percent,
    }),
    "gain-by-kind.svg": barChart("Perplexity saved with 6,000 tokens known, by kind of text", byKind, {
      step: 0.1,
      textOf: percent,
    }),
  };
}

function speedCharts(markdown: string): Record<string, string> {
  // A line is "batch, context | ms a step | first token, ms | memory, MB", each with three figures: int8, exact, node-llama-cpp.
  const rows = [...markdown.matchAll(/^\| (\d+), (\d+) \|([^|]+)\|([^|]+)\|[^|]+\|$/gm)];
  if (rows.length === 0) throw new TypeError("SPEED.md has no table of speed beside node-llama-cpp");
  const barsOf = (column: number) =>
    rows.flatMap((cells) =>
      cells[column].split("/").map((text, side) => ({
        label: `${["int8", "exact", "node-llama-cpp"][side]}, ${cells[1]} × ${cells[2]} tokens`,
        value: Number(text.replaceAll(/[*,\s]/g, "")),
        isReference: side === 2,
      })),
    );
  const textOf = (ms: number) => `${Math.round(ms).toLocaleString("en")} ms`;
  return {
    "speed-step.svg": barChart("Time of a step that adds one token to each sequence, by batch × context", barsOf(3), {
      step: 25,
      textOf,
    }),
    "speed-first-token.svg": barChart("Time to the first token, by batch × context", barsOf(4), { step: 2500, textOf }),
  };
}

export function documentCharts(read: (file: string) => string): Record<string, string> {
  const figures = JSON.parse(read("gpu-backend/models/smollm2-135m/own-figures.json")) as MemoryFigures;
  return { ...memoryCharts(figures), ...speedCharts(read("gpu-backend/SPEED.md")) };
}
