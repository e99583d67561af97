/** What each plot of the report shows, as Vega-Lite specifications. Not here: drawing them (draw.ts). */
import { isDeepStrictEqual } from "node:util";
import type { TopLevelSpec } from "vega-lite";
import type { Gain } from "../bank/gain.ts";
import { methods } from "../evaluation/methods.ts";
import type { EvaluationResult } from "../evaluation/result.ts";
import { methodNames } from "./tables.ts";

export interface Plot {
  /** For file names and anchors. */
  id: string;
  title: string;
  /** What to see in it, a sentence or two. */
  caption: string;
  spec: TopLevelSpec;
}

const width = 640;
const colours = { bank: "#0b6e4f", fixed: "#9a6b00", base: "#6b7280" } as const;
const nats = "gain, nats a token";

/** The plots that `result` has the numbers for, in the order of the report. */
export function plotsOf(result: EvaluationResult): Plot[] {
  const plots: Plot[] = [];
  if (result.results.length > 0) {
    plots.push(perplexities(result), byDomain(result));
    // One centroid has the gain of the one domain, and no map.
    if (result.centroids.length > 1) plots.push(byCentroid(result), map(result));
    if (result.prefixLengths.length > 0) plots.push(byPrefix(result));
    plots.push(curves(result));
  }
  return plots;
}

function perplexities({ summary }: EvaluationResult): Plot {
  const values = methods.flatMap((method) => {
    const row = summary[method];
    if (!row) return [];
    const group = method === "base" ? "base" : method.startsWith("gated-bank") ? "bank" : "other";
    return [{ method: methodNames[method], group, ppl: row.ppl, low: row.ci95[0], high: row.ci95[1] }];
  });
  const y = { field: "method", type: "nominal", sort: null, title: null, axis: { labelLimit: 0 } } as const;
  const color = {
    field: "group",
    type: "nominal" as const,
    scale: { domain: ["base", "other", "bank"], range: [colours.base, colours.fixed, colours.bank] },
    legend: null,
  };
  return {
    id: "perplexity",
    title: "Perplexity by method",
    caption:
      "Held-out documents of the domains in training, seeds averaged; lower is better. Lines are 95% intervals over " +
      "documents: they are wide because documents differ, and the same for all methods. Whether one beats another is " +
      "seen in the gains below, which compare text by text.",
    spec: {
      width,
      height: { step: 26 },
      data: { values },
      layer: [
        {
          mark: { type: "rule", strokeWidth: 2 },
          encoding: {
            y,
            x: { field: "low", type: "quantitative", scale: { zero: false } },
            x2: { field: "high" },
            color,
          },
        },
        {
          mark: { type: "point", filled: true, size: 90, opacity: 1 },
          encoding: { y, x: { field: "ppl", type: "quantitative", title: "perplexity" }, color },
        },
        {
          mark: { type: "text", dy: -10, fontSize: 11 },
          encoding: { y, x: { field: "ppl", type: "quantitative" }, text: { field: "ppl", format: ".2f" } },
        },
      ],
    },
  };
}

/** Dots with intervals, a row per name and a colour per kind of gain. */
function gainDots(
  values: ({ name: string; of: string } & Interval)[],
  kinds: readonly string[],
  names: readonly string[],
): TopLevelSpec {
  const y = {
    field: "name",
    type: "nominal",
    sort: [...names],
    title: null,
    axis: { labelLimit: 0, grid: true },
  } as const;
  const offset = { field: "of", type: "nominal", sort: [...kinds] } as const;
  const color = {
    field: "of",
    type: "nominal",
    sort: [...kinds],
    title: null,
    scale: { domain: [...kinds], range: [colours.bank, colours.fixed, colours.base].slice(0, kinds.length) },
    legend: { orient: "top", offset: 12 },
  } as const;
  return {
    width: width - 60,
    height: { step: 14 },
    data: { values },
    layer: [
      { mark: { type: "rule", color: "#9ca3af" }, encoding: { x: { datum: 0, type: "quantitative" } } },
      {
        mark: { type: "rule", strokeWidth: 2 },
        encoding: {
          ...{ y, yOffset: offset, color },
          x: { field: "low", type: "quantitative" },
          x2: { field: "high" },
        },
      },
      {
        mark: { type: "point", filled: true, size: 60, opacity: 1 },
        encoding: { y, yOffset: offset, color, x: { field: "nats", type: "quantitative", title: nats } },
      },
    ],
  };
}

function byDomain({ gains, domains }: EvaluationResult): Plot {
  // At full strength everywhere, what is shipped is the bank itself.
  const isWeaker = gains.some(({ overBase, shippedOverBase }) => !isDeepStrictEqual(overBase, shippedOverBase));
  const kinds = ["over the base", "over static LoRA of equal size", ...(isWeaker ? ["as shipped, over the base"] : [])];
  const nameOf = (domain: string) => {
    const { known, unseen } = domains.find(({ name }) => name === domain)!;
    return `${domain}${known ? " (base's own)" : ""}${unseen ? " (not trained on)" : ""}`;
  };
  const values = gains.flatMap(({ domain, overBase, overStatic, shippedOverBase }) => [
    { name: nameOf(domain), of: kinds[0], ...intervalOf(overBase) },
    { name: nameOf(domain), of: kinds[1], ...intervalOf(overStatic) },
    ...(isWeaker ? [{ name: nameOf(domain), of: kinds[2], ...intervalOf(shippedOverBase) }] : []),
  ]);
  return {
    id: "domains",
    title: "Gain of the gated bank by domain",
    caption: "Right of zero is better. A domain that no adapter was trained on is marked, and so are the base's own.",
    spec: gainDots(
      values,
      kinds,
      gains.map(({ domain }) => nameOf(domain)),
    ),
  };
}

function byCentroid({ centroids }: EvaluationResult): Plot {
  const kinds = ["over the base", "over static LoRA of equal size"];
  const measured = centroids.filter(({ overBase }) => overBase);
  const nameOf = ({ id, label, scale }: (typeof centroids)[number]) =>
    `${id} ${label.slice(0, 4).join(" ")}${scale === 0 ? " (off)" : ""}`;
  const sorted = [...measured].sort((a, b) => b.overBase!.nats - a.overBase!.nats);
  return {
    id: "centroids",
    title: "Gain by centroid",
    caption: "First seed, full strength. A centroid that would be shipped switched off is marked.",
    spec: gainDots(
      sorted.flatMap((centroid) => [
        { name: nameOf(centroid), of: kinds[0], ...intervalOf(centroid.overBase!) },
        { name: nameOf(centroid), of: kinds[1], ...intervalOf(centroid.overStatic!) },
      ]),
      kinds,
      sorted.map(nameOf),
    ),
  };
}

function map({ centroids, documents }: EvaluationResult): Plot {
  const values = documents.map(({ domain, position: [x, y] }) => ({ domain, x, y }));
  const marks = centroids.map(({ id, label, position: [x, y] }) => ({
    text: `${id} ${label.slice(0, 2).join(" ")}`,
    x,
    y,
  }));
  // Room beside the outermost centroids for their labels.
  const axis = { title: null, axis: { labels: false, ticks: false, grid: false }, scale: { padding: 60 } } as const;
  // Below: beside the plot it would lie over the labels at its edge.
  const legend = { orient: "bottom", columns: 4, symbolOpacity: 1 } as const;
  return {
    id: "map",
    title: "Map of the centroids",
    caption:
      "The plane in which the centroids differ most. Dots are test documents, placed by their prefixes alone and coloured " +
      "by domain, which nobody told the clustering. Centroids that seem to coincide may lie apart in other directions.",
    spec: {
      width,
      height: 460,
      layer: [
        {
          data: { values },
          mark: { type: "circle", size: 36, opacity: 0.55 },
          encoding: {
            x: { field: "x", type: "quantitative", ...axis },
            y: { field: "y", type: "quantitative", ...axis },
            color: { field: "domain", type: "nominal", scale: { scheme: "tableau20" }, title: null, legend },
          },
        },
        {
          data: { values: marks },
          mark: { type: "point", shape: "cross", filled: true, size: 90, color: "black", opacity: 1 },
          encoding: { x: { field: "x", type: "quantitative" }, y: { field: "y", type: "quantitative" } },
        },
        {
          data: { values: marks },
          mark: { type: "text", dy: -10, fontSize: 11, fontWeight: "bold", stroke: "white", strokeWidth: 3 },
          encoding: {
            x: { field: "x", type: "quantitative" },
            y: { field: "y", type: "quantitative" },
            text: { field: "text" },
          },
        },
        {
          data: { values: marks },
          mark: { type: "text", dy: -10, fontSize: 11, fontWeight: "bold" },
          encoding: {
            x: { field: "x", type: "quantitative" },
            y: { field: "y", type: "quantitative" },
            text: { field: "text" },
          },
        },
      ],
    },
  };
}

function byPrefix({ prefixLengths }: EvaluationResult): Plot {
  const values = prefixLengths.map(({ length, overBase, agreement }) => ({
    length,
    agreement,
    ...intervalOf(overBase),
  }));
  const x = {
    field: "length",
    type: "quantitative",
    scale: { type: "log", base: 2 },
    title: "tokens that place the text",
    axis: { values: values.map(({ length }) => length), grid: false },
  } as const;
  return {
    id: "prefixes",
    title: "Gain by prefix length",
    caption:
      "The same tokens, scored under the adapter that a prefix of so many tokens leads to. Under the points: how many texts " +
      "such a prefix takes to the centroid that the longest one takes them to.",
    spec: {
      width,
      height: 260,
      data: { values },
      layer: [
        {
          mark: { type: "errorband", opacity: 0.2, color: colours.bank },
          encoding: { x, y: { field: "low", type: "quantitative", title: nats }, y2: { field: "high" } },
        },
        {
          mark: { type: "line", point: { size: 60, filled: true, color: colours.bank }, color: colours.bank },
          encoding: { x, y: { field: "nats", type: "quantitative" } },
        },
        {
          mark: { type: "text", dy: 18, fontSize: 11 },
          encoding: {
            x,
            y: { field: "nats", type: "quantitative" },
            text: { field: "agreement", format: ".0%" },
          },
        },
      ],
    },
  };
}

function curves({ curves: points }: EvaluationResult): Plot {
  return {
    id: "curves",
    title: "Learning curves",
    caption: "Loss on validation windows, first seed, full strength; the dot at step 0 is the method's start.",
    spec: {
      width,
      height: 320,
      data: { values: points.map(({ method, step, nats }) => ({ method: methodNames[method], step, nats })) },
      mark: { type: "line", point: { size: 25 } },
      encoding: {
        x: { field: "step", type: "quantitative", title: "steps" },
        y: { field: "nats", type: "quantitative", scale: { zero: false }, title: "validation loss, nats a token" },
        color: { field: "method", type: "nominal", title: null, sort: methods.map((method) => methodNames[method]) },
      },
    },
  };
}

interface Interval {
  nats: number;
  low: number;
  high: number;
}

function intervalOf({ nats, ci95: [low, high] }: Gain): Interval {
  return { nats, low, high };
}
