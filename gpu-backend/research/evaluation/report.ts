/** Renders an evaluation as one HTML page with bar charts of gains and their intervals. The page loads nothing. Pure. */
import type { Evaluation, EvaluationMean, Kind } from "./data.ts";
import { estimateText, gainTable, methodTable, questionTable } from "./render.ts";

interface Bar {
  name: string;
  gains: EvaluationMean["gains"];
}

const kinds: Record<Kind, string> = {
  trained: "Held-out documents of trained domains",
  new: "Text of no trained domain",
};
/** The prompt length that sources are compared at, or the longest there is below it. */
const comparedPrompt = 64;

export function reportPage(result: Evaluation): string {
  const { model, artifacts, format, rows } = result;
  const texts = Math.max(...rows.map((row) => row.texts));
  const doubtful = [...new Set(rows.filter(({ heldOut }) => !heldOut).map(({ name }) => name))];
  const parts = [
    `<h1>${escaped(model)}: what the adapters gain</h1>`,
    `<p>Artifacts <code>${artifacts.slice(0, 12)}</code>, weights in ${escaped(format)}, up to ${texts} texts of a source. Gain over the base in nats a token, with its 95% interval: 0.1 is 10% lower perplexity. Left of 0 the base alone is better.</p>`,
    ...(doubtful.length > 0
      ? [`<p class="warning">Perhaps trained on these documents: ${escaped(doubtful.join(", "))}.</p>`]
      : []),
    '<p><svg width="12" height="12"><rect class="mixture" width="12" height="12"/></svg> mixture (<code>auto</code>) <svg width="12" height="12"><rect class="nearest" width="12" height="12"/></svg> nearest adapter alone</p>',
    ...(["trained", "new"] as const).flatMap((kind) => kindSection(result, kind)),
    ...(rows.some(({ prompt }) => prompt === "question")
      ? ["<h2>Questions and their answers</h2>", table(questionTable(result))]
      : []),
    "<h2>Methods</h2>",
    table(methodTable(result)),
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(model)}: what the adapters gain</title>
<style>${style}</style>
</head>
<body>
${parts.join("\n")}
</body>
</html>
`;
}

function kindSection(result: Evaluation, kind: Kind): string[] {
  const rows = result.rows.filter((row) => row.kind === kind);
  const lengths = rows.map(({ prompt }) => prompt).filter((prompt) => prompt !== "question");
  if (lengths.length === 0) return [];
  const compared = Math.max(...lengths.filter((length) => length <= comparedPrompt));
  const means = result.means.filter((mean) => mean.kind === kind && mean.prompt !== "question");
  return [
    `<h2>${kinds[kind]}</h2>`,
    chart(
      "Mean of the sources, by length of the prompt",
      means.map(({ prompt, gains }) => ({ name: `${prompt} tokens`, gains })),
    ),
    chart(
      `By source, after ${compared} tokens`,
      rows.filter(({ prompt }) => prompt === compared),
    ),
    table(gainTable(result, kind)),
  ];
}

// Pixels of a chart.
const [labels, plot, line, margin] = [210, 500, 36, 26];

/** One line for each name: the mixture's bar above the nearest adapter's, each with its interval. */
function chart(caption: string, rows: readonly Bar[]): string {
  const intervals = rows.flatMap(({ gains: { mixture, nearest } }) => [...mixture.ci95, ...nearest.ci95]);
  const [low, high] = [Math.min(0, ...intervals), Math.max(0, ...intervals)];
  const x = (nats: number) => Math.round(10 * (labels + (plot * (nats - low)) / (high - low || 1))) / 10;
  const bottom = rows.length * line;
  const ticks = ticksOf(low, high).map(
    (tick) =>
      `<line class="${tick === 0 ? "zero" : "grid"}" x1="${x(tick)}" x2="${x(tick)}" y1="0" y2="${bottom}"/>` +
      `<text x="${x(tick)}" y="${bottom + 17}" text-anchor="middle">${tick}</text>`,
  );
  const bars = rows.map(({ name, gains }, row) => {
    const own = (["mixture", "nearest"] as const).map((method, i) => {
      const { mean, ci95 } = gains[method];
      const y = row * line + 5 + 13 * i;
      const [start, end] = [x(Math.min(0, mean)), x(Math.max(0, mean))];
      return (
        `<g><title>${escaped(name)}, ${method}: ${estimateText(gains[method])}</title>` +
        `<rect class="${method}" x="${start}" y="${y}" width="${(end - start).toFixed(1)}" height="12"/>` +
        `<line class="interval" x1="${x(ci95[0])}" x2="${x(ci95[1])}" y1="${y + 6}" y2="${y + 6}"/></g>`
      );
    });
    return `<text x="${labels - 10}" y="${row * line + 22}" text-anchor="end">${escaped(name)}</text>${own.join("")}`;
  });
  const size = `viewBox="0 0 ${labels + plot + margin} ${bottom + margin}"`;
  return `<figure><figcaption>${escaped(caption)}</figcaption><svg ${size} role="img" aria-label="${escaped(caption)}">${ticks.join("")}${bars.join("")}</svg></figure>`;
}

/** Round numbers from `low` to `high`, 0 among them, eight at most. */
function ticksOf(low: number, high: number): number[] {
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((one) => (high - low) / one <= 7) ?? 10;
  const first = Math.ceil(low / step);
  return Array.from(
    { length: Math.floor(high / step) - first + 1 },
    (_, i) => Number(((first + i) * step).toFixed(2)) + 0,
  );
}

/** A Markdown table of render.ts as HTML. */
function table(markdown: string): string {
  const [head, , ...body] = markdown.split("\n").map((row) => row.slice(2, -2).split(" | "));
  const cells = (row: string[], tag: string) =>
    row.map((cell) => `<${tag}>${escaped(cell).replace(/^\*\*(.*)\*\*$/, "<b>$1</b>")}</${tag}>`).join("");
  const rows = body.map((row) => `<tr>${cells(row, "td")}</tr>`).join("\n");
  return `<div class="table"><table><thead><tr>${cells(head, "th")}</tr></thead><tbody>\n${rows}\n</tbody></table></div>`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

const style = `
:root{color-scheme:light dark;--ink:#1f2937;--paper:#fff;--faint:#d1d5db;--mixture:#0f766e;--nearest:#b45309;--warning:#9f1239}
@media (prefers-color-scheme:dark){:root{--ink:#e5e7eb;--paper:#111827;--faint:#374151;--mixture:#2dd4bf;--nearest:#fbbf24;--warning:#fda4af}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:960px;margin:0 auto;padding:24px 16px}
p{max-width:76ch}h1{font-size:24px}h2{font-size:19px;margin-top:36px}.warning{color:var(--warning)}
figure{margin:16px 0}figure svg{width:100%;max-width:760px}svg text{font-size:12px;fill:var(--ink)}
.mixture{fill:var(--mixture)}.nearest{fill:var(--nearest)}.interval{stroke:var(--ink);stroke-width:1.5}
.grid{stroke:var(--faint)}.zero{stroke:var(--ink)}
.table{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 8px;border-bottom:1px solid var(--faint);text-align:right}th:first-child,td:first-child{text-align:left}
`;
