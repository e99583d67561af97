/** What a simulation found, as one page that needs no network, with plots. Pure. */
import { costOf } from "./cost.ts";
import type { City } from "./traffic.ts";
import type { AfterLoss, RegionRow, WorldOptions, WorldResult } from "./world.ts";

/** Bounds that a deployment is held to. */
const bounds = { cellRequestsPerSecond: 500, utilisation: 0.7, cellUse: 0.7, ledgerRequestsPerSecond: 500 };

interface Use {
  what: string;
  used: number;
  limit: number;
}

/** How much of each bound is used, the tightest first: that is where the first bottleneck is. */
export function bottlenecks({ rows, busiestLedger }: WorldResult): Use[] {
  const most = (of: (row: RegionRow) => number) => Math.max(...rows.map(of));
  const uses: Use[] = [
    { what: "backends' utilisation", used: most((row) => row.utilisation), limit: bounds.utilisation },
    {
      what: "requests a second of the busiest cell",
      used: most((row) => row.busiestCell),
      limit: bounds.cellRequestsPerSecond,
    },
    { what: "thread of the busiest cell", used: most((row) => row.busiestCellUse), limit: bounds.cellUse },
    { what: "requests a second of the busiest ledger", used: busiestLedger, limit: bounds.ledgerRequestsPerSecond },
  ];
  return uses.sort((a, b) => b.used / b.limit - a.used / a.limit);
}

export function simulationPage(
  world: WorldOptions,
  whole: WorldResult,
  lost: { region: string; result: WorldResult },
  cities: readonly City[],
): string {
  const { fixed, prompt, promptToken, decodedRow } = world.stepTimes;
  const cost = costOf(whole, world);
  const after = lost.result.afterLoss!;
  const lostRow = after.find(({ region }) => region === lost.region)!;
  const used = bottlenecks(whole);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Chameleon Edge: a simulated world</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; } td:first-child, th:first-child { text-align: left; }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
.way { fill: #5b8def; } .wait { fill: #e08a3c; } .tail { fill: #8886; } .bound { stroke: #c33; stroke-dasharray: 4 3; } .city { fill: #5b8def; fill-opacity: .5; }
</style>
</head>
<body>
<h1>A simulated world</h1>
<p>${number(world.requestsPerSecond)} requests a second of ${cities.length} cities and ${number(world.traffic.tenants)} tenants, ${number(world.traffic.centroids)} centroids, ${world.backends} backends, ${world.cellsPerRegion} cells a region. A step takes ${fixed} ms + ${prompt} ms a prompt + ${promptToken} ms a prompt token + ${decodedRow} ms a decoded row; a cell ${world.cellTimes.request} ms a request and ${world.cellTimes.frame} ms a frame; a Worker ${world.workerMs} ms. Regions, cells, micro-batches, routing and the plan of a step are decided by the product's own code; times on the way are computed from distances.</p>
${cityMap(cities)}
<h2>First token, by the caller's region</h2>
${firstTokenPlot(whole.rows)}
<p>Blue: the median without any queue (ways to ledger, cell and backend, and the prompt's own steps). Orange: what queues and other rows add to it. Grey: up to the 99th percentile; the red line is twice the 99th percentile without queues.</p>
${regionTable(whole, world)}
<h2>The first bottleneck</h2>
<table><tr><th>bound</th><th>used</th><th>limit</th><th>holds up to</th></tr>
${used.map(({ what, used, limit }) => `<tr><td>${what}</td><td>${used.toFixed(2)}</td><td>${limit}</td><td>${(limit / used).toFixed(1)} × this traffic</td></tr>`).join("\n")}
</table>
<h2>A region is lost</h2>
<p>All backends of ${lost.region} end half-way. Its callers' first tokens then take ${lostRow.p50.toFixed(0)} ms at the median and ${lostRow.p99.toFixed(0)} ms at the 99th percentile (before: ${rowOf(whole, lost.region).p50.toFixed(0)} and ${rowOf(whole, lost.region).p99.toFixed(0)}); ${lost.result.failed} of ${number(lost.result.requests)} requests failed. First tokens of the requests that came after the loss:</p>
${firstTokenPlot(after)}
${lossTable(after)}
<h2>Cost</h2>
<p>A million generated tokens cost $${cost.total.toFixed(2)}: ${cost.parts.map(([part, dollars]) => `${part} $${dollars.toFixed(3)}`).join(", ")}.</p>
</body>
</html>
`;
}

function regionTable({ rows }: WorldResult, { seconds }: WorldOptions): string {
  const body = rows.map(
    (row) =>
      `<tr><td>${row.region}</td><td>${row.backends}</td><td>${(row.requests / seconds).toFixed(0)}</td><td>${row.p50.toFixed(0)}</td><td>${row.p99.toFixed(0)}</td><td>${row.freeP50.toFixed(0)}</td><td>${row.freeP99.toFixed(0)}</td><td>${(100 * row.utilisation).toFixed(0)}%</td><td>${row.busiestCell.toFixed(0)}</td><td>${row.failed}</td></tr>`,
  );
  return `<table><tr><th>region</th><th>backends</th><th>requests/s</th><th>p50, ms</th><th>p99</th><th>p50 without queues</th><th>p99</th><th>utilisation</th><th>busiest cell, requests/s</th><th>failed</th></tr>
${body.join("\n")}
</table>`;
}

function lossTable(rows: readonly AfterLoss[]): string {
  const body = rows.map(
    (row) =>
      `<tr><td>${row.region}</td><td>${row.requests}</td><td>${row.p50.toFixed(0)}</td><td>${row.p99.toFixed(0)}</td><td>${row.freeP99.toFixed(0)}</td><td>${(row.p99 / row.freeP99).toFixed(2)}</td><td>${row.failed}</td></tr>`,
  );
  return `<table><tr><th>region</th><th>requests</th><th>p50, ms</th><th>p99, ms</th><th>p99 without queues</th><th>p99 ÷ that</th><th>failed</th></tr>
${body.join("\n")}</table>`;
}

type PlottedRow = Pick<RegionRow, "region" | "p50" | "p99" | "freeP50" | "freeP99">;

function firstTokenPlot(rows: readonly PlottedRow[]): string {
  const [width, left, bar, gap] = [900, 60, 22, 14];
  const most = Math.max(...rows.map(({ p99, freeP99 }) => Math.max(p99, 2 * freeP99))) * 1.05;
  const x = (ms: number) => left + (ms / most) * (width - left - 20);
  const height = rows.length * (bar + gap) + 30;
  const bars = rows.map((row, i) => {
    const y = i * (bar + gap) + 4;
    const rect = (from: number, to: number, kind: string, inset: number) =>
      `<rect class="${kind}" x="${x(from).toFixed(1)}" y="${y + inset}" width="${Math.max(0, x(to) - x(from)).toFixed(1)}" height="${bar - 2 * inset}"/>`;
    const bound = x(2 * row.freeP99).toFixed(1);
    return `<text x="4" y="${y + 16}">${row.region}</text>${rect(0, row.freeP50, "way", 0)}${rect(row.freeP50, row.p50, "wait", 0)}${rect(row.p50, row.p99, "tail", 7)}<line class="bound" x1="${bound}" x2="${bound}" y1="${y - 2}" y2="${y + bar + 2}"/>`;
  });
  const ticks = Array.from({ length: 6 }, (_, i) => (i * most) / 5).map(
    (ms) => `<text x="${x(ms).toFixed(1)}" y="${height - 6}" text-anchor="middle">${ms.toFixed(0)} ms</text>`,
  );
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="First token by region">${bars.join("")}${ticks.join("")}</svg>`;
}

/** Equirectangular; a city's area is its share of the traffic. */
function cityMap(cities: readonly City[]): string {
  const dots = cities.map(
    ({ latitude, longitude, share }) =>
      `<circle class="city" cx="${((longitude + 180) * 2.5).toFixed(1)}" cy="${((85 - latitude) * 2.5).toFixed(1)}" r="${(Math.sqrt(share) * 60).toFixed(1)}"/>`,
  );
  return `<svg viewBox="0 0 900 350" role="img" aria-label="Cities by their share of the traffic">${dots.join("")}</svg>`;
}

const number = (value: number) => value.toLocaleString("en");

function rowOf({ rows }: WorldResult, region: string): RegionRow {
  return rows.find((row) => row.region === region)!;
}
