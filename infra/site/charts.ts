/**
 * Draws the charts of the documents from the figures beside the model card, as SVG that follows the reader's light or dark
 * theme. Pure. Not here: what is measured (research/evaluation/own).
 */

/** A mean over texts with its 95% interval, in nats a token. */
interface Gain {
  mean: number;
  ci95: [number, number];
}

/** What charts read of own-figures.json. */
export interface MemoryFigures {
  rows: { group: string; name: string; gains: Record<string, Gain> }[];
  groups: { group: string; gains: Record<string, { gain: Gain }> }[];
}

interface Bar {
  label: string;
  gain: Gain;
  /** Drawn pale: what the others are compared with. */
  isReference?: boolean;
}

const colours = {
  light: { paper: "#ffffff", ink: "#1c2b27", faint: "#5b6b66", bar: "#0b6e5a", reference: "#a9c4bc", grid: "#d5dedb" },
  dark: { paper: "#1b1b1f", ink: "#e6ecea", faint: "#a3b1ac", bar: "#4cc2a5", reference: "#44645b", grid: "#3a4441" },
};
/** Pixels of a row, of the column of labels, and of the bars' column. */
const row = 26;
const labelWidth = 240;
const barWidth = 400;
const margin = 20;

const style = (theme: (typeof colours)["light"]) =>
  `.paper{fill:${theme.paper}}text{fill:${theme.ink}}.faint{fill:${theme.faint}}.bar{fill:${theme.bar}}.reference{fill:${theme.reference}}.interval{stroke:${theme.ink}}.grid{stroke:${theme.grid}}`;

/** Perplexity lower by this share, of a gain in nats a token. */
const saved = (nats: number) => 1 - Math.exp(-nats);
const percent = (share: number) =>
  `${(100 * share).toFixed(share !== 0 && Math.abs(share) < 0.01 ? 1 : 0)}%`.replace("-", "−");

/** Horizontal bars of perplexity saved, with their intervals, over a scale from the least to the greatest interval's end. */
function barChart(title: string, bars: readonly Bar[]): string {
  const least = Math.min(0, ...bars.map(({ gain }) => saved(gain.ci95[0])));
  const most = Math.max(...bars.map(({ gain }) => saved(gain.ci95[1])));
  const x = (share: number) => (labelWidth + (barWidth * (share - least)) / (most - least)).toFixed(1);
  const height = margin + 30 + row * bars.length + 34;
  const drawn = bars.map(({ label, gain, isReference }, index) => {
    const top = margin + 30 + row * index;
    const [from, to] = [Math.min(0, saved(gain.mean)), Math.max(0, saved(gain.mean))];
    const middle = top + row / 2;
    return `<text x="${labelWidth - 8}" y="${middle + 4}" text-anchor="end">${label}</text>
<rect class="${isReference ? "reference" : "bar"}" x="${x(from)}" y="${top + 4}" width="${(Number(x(to)) - Number(x(from))).toFixed(1)}" height="${row - 8}" rx="2"/>
<path class="interval" d="M${x(saved(gain.ci95[0]))} ${middle}H${x(saved(gain.ci95[1]))}"/>
<text class="faint" x="${labelWidth + barWidth + 10}" y="${middle + 4}">${percent(saved(gain.mean))}</text>`;
  });
  const step = most - least > 0.3 ? 0.1 : 0.05;
  const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
  const bottom = margin + 30 + row * bars.length;
  const scale = ticks.map(
    (share) =>
      `<path class="grid" d="M${x(share)} ${margin + 26}V${bottom}"/><text class="faint" x="${x(share)}" y="${bottom + 18}" text-anchor="middle">${percent(share)}</text>`,
  );
  const width = labelWidth + barWidth + 60;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-labelledby="title">
<title id="title">${title}</title>
<style>svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-size:13px}.interval{stroke-width:1.5}.name{font-weight:600}${style(colours.light)}@media (prefers-color-scheme:dark){${style(colours.dark)}}</style>
<rect class="paper" width="${width}" height="${height}" rx="8"/>
<text class="name" x="${margin}" y="${margin + 8}">${title}</text>
${scale.join("\n")}
${drawn.join("\n")}
</svg>
`;
}

/** Charts by the name of their file in infra/docs. Throws a TypeError if a figure is missing. */
export function memoryCharts({ rows, groups }: MemoryFigures): Record<string, string> {
  const fresh = groups.find(({ group }) => group === "fresh")?.gains;
  if (!fresh) throw new TypeError("no figures of fresh kinds");
  const byTokens: Bar[] = [
    { label: "nothing known", gain: fresh.mixture.gain, isReference: true },
    ...[1_000, 4_000, 6_000].map((tokens) => ({
      label: `memory of ${tokens.toLocaleString("en")} tokens`,
      gain: fresh[`own ${tokens}`].gain,
    })),
    { label: "memory and adapters, as served", gain: fresh["mixture, own"].gain },
    { label: "best passage in the prompt", gain: fresh.passage.gain, isReference: true },
    { label: "memory of another kind of text", gain: fresh.foreign.gain, isReference: true },
  ];
  const byKind = rows
    .filter(({ group }) => group === "fresh")
    .map(({ name, gains }) => ({ label: name, gain: gains["mixture, own"] }))
    .sort((a, b) => b.gain.mean - a.gain.mean);
  return {
    "gain-by-tokens.svg": barChart("Perplexity saved, mean of twelve fresh kinds of text", byTokens),
    "gain-by-kind.svg": barChart("Perplexity saved with 6,000 tokens known, by kind of text", byKind),
  };
}
