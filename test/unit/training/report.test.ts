/** The report of a made-up result: what it shows is what the result says, and the page needs nothing from outside. */
import { expect, test } from "vitest";
import { type Method, methods } from "../../../gpu-backend/training/evaluation/methods.ts";
import { type EvaluationResult, resultSchema } from "../../../gpu-backend/training/evaluation/result.ts";
import { htmlReport, markdownReport } from "../../../gpu-backend/training/report/documents.ts";
import { drawSvg } from "../../../gpu-backend/training/report/draw.ts";
import { plotsOf } from "../../../gpu-backend/training/report/plots.ts";

const gain = (nats: number) => ({ nats, ci95: [nats - 0.01, nats + 0.01] as [number, number], tokens: 1000 });
const nllOf = (method: Method) => 4 - 0.1 * methods.indexOf(method);
const result: EvaluationResult = resultSchema.parse({
  format: 1,
  model: { name: "<model>", weights: "0123456789abcdef", parameters: 1234 },
  options: { clusters: 2, seeds: [1, 2, 3] },
  domains: [
    { name: "sea", known: true, unseen: false, documents: 20, tokens: 9000, testDocuments: 2 },
    { name: "tables", known: false, unseen: true, documents: 20, tokens: 9000, testDocuments: 20 },
  ],
  results: methods.flatMap((method) =>
    ["sea", "tables"].map((domain, i) => ({
      ...{ method, domain, known: i === 0, unseen: i === 1, seed: 1, nll: nllOf(method), tokens: 500 },
    })),
  ),
  summary: Object.fromEntries(
    methods.map((method) => [
      method,
      {
        ppl: Math.exp(nllOf(method)),
        ...{ pplKnown: 50, pplNew: null, pplUnseen: 60, ci95: [20, 60], pplBySeed: [50], trainable: 7, seconds: 1 },
        ...{ gain: method === "base" ? null : gain(0.1), learningRate: 0.01 },
      },
    ]),
  ),
  gains: ["sea", "tables"].map((domain) => ({
    ...{ domain, overStatic: gain(0.05), overBase: gain(0.2), shippedOverBase: gain(0.15) },
  })),
  overStatic: gain(0.05),
  controls: {
    wrongCentroid: { gain: gain(0.02), kept: 0.123 },
    constantInput: { overStatic: gain(-0.01) },
    withoutLargestCluster: { overBase: gain(0.1), overStatic: gain(0.03) },
    withoutBestCluster: { overBase: gain(0.1), overStatic: gain(0.02) },
  },
  centroids: ["c0", "c1"].map((id, i) => ({
    ...{ id, label: ["whale"], size: 10, position: [i, 1 - i], scale: i, overBase: gain(0.1), overStatic: gain(0.05) },
  })),
  documents: [{ domain: "sea", centroid: "c0", position: [0.1, 0.9] }],
  prefixLengths: [8, 128].map((length) => ({ length, overBase: gain(0.1), agreement: 0.5 })),
  formats: [
    { format: "fp32", ppl: 30, tokens: 500 },
    { format: "int8", ppl: 30.06, tokens: 500 },
  ],
  curves: [0, 10].map((step) => ({ method: "gated-bank", step, nats: 4 - step / 10 })),
  paper: {
    rows: [
      { row: "unadapted", trainable: 0, paperLoss: 10, published: 10.2513, honestLoss: 4 },
      { row: "traditional LoRA", trainable: 5, paperLoss: 2, published: 1.3528, honestLoss: 5 },
      { row: "ChameleonLLM", trainable: 50, paperLoss: 1, published: 0.3753, honestLoss: 6 },
      { row: "base, pad logit biased", trainable: 1, paperLoss: 2.8, published: null, honestLoss: 4 },
    ],
    ...{ lines: 100, paddedShare: 0.93, padBias: 8 },
  },
  seconds: 12,
});

test("the page holds every plot and number, and asks for nothing from outside", async () => {
  const plots = [];
  for (const plot of plotsOf(result)) plots.push({ ...plot, svg: await drawSvg(plot.spec) });
  expect(plots.map(({ id }) => id)).toEqual(["perplexity", "domains", "centroids", "map", "prefixes", "curves"]);
  const html = htmlReport(result, plots);
  expect(html.match(/<svg/g)).toHaveLength(plots.length);
  expect(html).not.toMatch(/(src|href)="(?!#|data:)/);
  expect(html).not.toMatch(/<script|@import|url\((?!["']?#)/);
  expect(html).toContain("&lt;model&gt;");
  for (const text of ["12.3%", "0.050 [0.040, 0.060]", "93.0%", "28,319", "whale"]) expect(html).toContain(text);
  expect(html).toContain("sea fares worst as shipped: −59.3%"); // e^−0.9
  const markdown = markdownReport(result, plots);
  for (const { id } of plots) expect(markdown).toContain(`(${id}.svg)`);
});

test("says only what there is: no sentence with a hole, no column of dashes, no row or series twice", () => {
  const noUnseen = structuredClone(result);
  for (const row of Object.values(noUnseen.summary)) Object.assign(row!, { pplNew: null, pplUnseen: null });
  noUnseen.controls!.withoutBestCluster = structuredClone(noUnseen.controls!.withoutLargestCluster);
  noUnseen.overStatic = gain(-0.02);
  for (const one of noUnseen.gains) one.shippedOverBase = one.overBase;
  const markdown = markdownReport(noUnseen, []);
  const prose = markdown.split("\n").filter((line) => line.startsWith("- "));
  expect(prose.length).toBeGreaterThan(5);
  expect(prose.filter((line) => /–|−-|\+-/.test(line))).toEqual([]);
  expect(markdown).toContain("| method | trainable | perplexity (95% CI) | known | gain over base, nats |");
  expect(markdown).toContain("(perplexity +2.0%)");
  expect(markdown).toContain("which also gains most");
  expect(markdown).not.toContain("| without the best cluster");
  expect(JSON.stringify(plotsOf(noUnseen))).not.toContain("as shipped, over the base");
  expect(JSON.stringify(plotsOf(result))).toContain("as shipped, over the base");
});

test("marks a quick run in the title and before the numbers", () => {
  expect(markdownReport(result, [])).not.toMatch(/quick/i);
  const quick = markdownReport({ ...result, options: { ...result.options, quick: true } }, []);
  expect(quick).toMatch(/^# .*\(quick run\)\n\n## What it comes to\n\nA quick run /);
});

test("of one centroid there is no panel that repeats its domain's, and no map", () => {
  const one = { ...result, centroids: result.centroids.slice(0, 1) };
  expect(plotsOf(one).map(({ id }) => id)).toEqual(["perplexity", "domains", "prefixes", "curves"]);
});

test("a perplexity and its interval are drawn where the scale says", async () => {
  const { spec } = plotsOf(result).find(({ id }) => id === "perplexity")!;
  const svg = await drawSvg(spec);
  for (const method of methods) expect(svg).toContain(Math.exp(nllOf(method)).toFixed(2));
});

test("a result of the paper's protocol alone has no plots, and says why the measures disagree", () => {
  const paperOnly = {
    ...result,
    ...{ results: [], summary: {}, gains: [], overStatic: null, controls: null },
    ...{ centroids: [], documents: [], prefixLengths: [], curves: [], formats: [] },
  };
  expect(plotsOf(paperOnly)).toEqual([]);
  // 10 → 2.8 by one number, of 10 → 2 by LoRA.
  expect(htmlReport(paperOnly, [])).toContain("90.0%");
});
