/** The evidence measurement: plans of the methods, what is said of their scores, and the client of the public API. */
import { expect, test, vi } from "vitest";
import { automaticMixture } from "../../../edge/assign/mixture.ts";
import {
  base,
  controls,
  mixture,
  nearest,
  type Placement,
  Prompt,
  planners,
  staticHeadPlan,
} from "../../../gpu-backend/training/figures/serving.ts";
import { scoredTokens } from "../../../gpu-backend/training/figures/texts.ts";
import { promptEmbedding, rankCentroids } from "../../../shared/math/assignment.ts";
import { defaultCalibration } from "../../../shared/math/evidence.ts";
import { type ApiOptions, requireEvidenceTokens, scoreByApi } from "../../bench/evidence/api-client.ts";
import { tables } from "../../bench/evidence/report.ts";
import { checksOf, meansOf, rowsOf, type Scored } from "../../bench/evidence/result.ts";

/** Four centroids along the axes of two dimensions; token 0 lies on the first, token 1 on the second. */
const placement: Placement = {
  table: {
    vocabularySize: 2,
    dimensions: 2,
    rows: Int8Array.of(1, 0, 0, 1),
    rowScales: Float32Array.of(1, 1),
  },
  centroids: { count: 4, dimensions: 2, vectors: Float32Array.of(1, 0, 0, 1, -1, 0, 0, -1) },
  ids: ["east", "north", "west", "south"],
  isOff: [false, false, false, false],
  prefixTokens: 4,
  calibration: { ...defaultCalibration, adapters: 2 },
};
const planOf = (method: string, ids: number[]) => planners[method](new Prompt(ids, placement), 0);

test("methods differ from the mixture in what their name says alone", () => {
  const ids = [0, 0, 0, 1, 1, 1, 1, 1, 1, 1];
  expect(planOf(base, ids)).toEqual({ adapterId: null });
  // Four tokens assign.
  expect(planOf(nearest, ids)).toEqual({ adapterId: "east" });
  const { mixture: served } = planOf(mixture, ids);
  expect(served!.adapters.map((one) => "centroidId" in one && one.centroidId)).toEqual(["east", "north"]);
  expect(served!.evidence!.tokens).toBe(ids.length);
  const { evidence } = served!;
  const { pointer } = evidence!;
  const changed = (method: string) => planOf(method, ids).mixture!;
  expect(changed("plain Bayes, η = 1")).toEqual({ ...served, evidence: { ...evidence, temper: 1 } });
  expect(changed("pointer with θ = 0")).toEqual({
    ...served,
    evidence: { ...evidence, pointer: { ...pointer, sharpness: 0 } },
  });
  expect(changed("base and pointer")).toEqual({ ...served, base: 1, adapters: [] });
  const withoutPointer = changed("mixture without pointer").evidence!.pointer.shares;
  expect(withoutPointer.map(({ prior }) => prior)).toEqual(withoutPointer.map(({ share }) => (share === 0 ? 1 : 0)));
  const equal = changed("equal weights");
  expect([equal.base, ...equal.adapters.map(({ weight }) => weight)]).toEqual([1 / 3, 1 / 3, 1 / 3]);
  expect(equal.evidence!.temper).toBe(0);
  const random = changed("random centroids");
  expect(random.adapters.map((one) => "centroidId" in one && one.centroidId).sort()).toEqual(["south", "west"]);
  expect(random.adapters.map(({ weight }) => weight)).toEqual(served!.adapters.map(({ weight }) => weight));
});

test("priors follow the prompt's margin and surprisal as at the edge; controls that have no priors do not", () => {
  const typical = { margin: 0.1, surprisal: 4 };
  const byLength = [{ promptTokens: 0, base: 0.8, noPointer: 0.7, temper: 0.1, typical }];
  const calibration = { ...defaultCalibration, adapters: 2, marginScale: 5, byLength };
  for (const ids of [[0], [0, 1, 0, 0, 1], [0, 1]]) {
    const prompt = new Prompt(ids, { ...placement, calibration });
    const candidates = rankCentroids(promptEmbedding(ids.slice(0, 4), placement.table), placement.centroids).map(
      ({ index, similarity }) => ({ id: placement.ids[index], similarity, ownHash: null, gain: null, isOff: false }),
    );
    const bank = { hyperNetwork: { kind: "gated-bank" }, evidence: calibration } as const;
    const { request } = automaticMixture(candidates, bank, { tokens: ids.length });
    const { mixture: served } = planners[mixture](prompt, 0);
    expect(served).toEqual(request);
    expect(served!.evidence!.pointer.typicalSurprisal).toBe(4);
    expect(planners["random centroids"](prompt, 0).mixture!.base).toBeCloseTo(request.base, 12);
    expect(planners["equal weights"](prompt, 0).mixture!.evidence!.pointer).not.toHaveProperty("typicalSurprisal");
    const { mixture: ofStaticHead } = staticHeadPlan(ids.length, "c0", calibration);
    expect(ofStaticHead!.base).toBe(0.8);
    expect(ofStaticHead!.evidence!.pointer).toEqual(request.evidence!.pointer);
  }
  const baseAt = (ids: number[]) => planners[mixture](new Prompt(ids, { ...placement, calibration }), 0).mixture!.base;
  // Between two axes, and on one.
  expect(baseAt([0, 1])).toBeGreaterThan(0.8);
  expect(baseAt([0])).toBeLessThan(0.5);
});

test("adapters that are off are no experts, and leave their priors to the base, as at the edge", () => {
  const ids = [0, 0, 0, 1];
  const prompt = new Prompt(ids, { ...placement, isOff: [true, false, false, false] });
  expect(planners[nearest](prompt, 0)).toEqual({ adapterId: "east" });
  const { adapters } = planOf(mixture, ids).mixture!;
  const served = planners[mixture](prompt, 0);
  expect(served).toMatchObject({ adapterId: "north", mixture: { adapters: [adapters[1]] } });
  expect(served.mixture!.base).toBeCloseTo(1 - adapters[1].weight, 12);
  const none = new Prompt([0], { ...placement, isOff: [true, true, true, true] });
  expect(planners[mixture](none, 0)).toMatchObject({ adapterId: null, mixture: { base: 1, adapters: [] } });
});

test("the weights of every mixture add up to 1", () => {
  for (const method of [mixture, ...controls]) {
    const { mixture: planned } = planOf(method, [0, 1, 1, 0, 1]);
    const sum = planned!.adapters.reduce((total, { weight }) => total + weight, planned!.base);
    expect(sum).toBeCloseTo(1, 12);
    expect(planned!.evidence!.pointer.shares.reduce((total, { prior }) => total + prior, 0)).toBeCloseTo(1, 12);
  }
});

const texts = ["a", "b", "c", "d"].map((document) => ({ document, bytes: 2 * scoredTokens, scored: scoredTokens }));
/** Every text gains so much a token over a base of −1. */
const scoredAt = (source: string, gains: Record<string, number>, rest: Partial<Scored> = {}): Scored[] =>
  [[base, 0] as const, ...Object.entries(gains)].map(([method, gain]) => ({
    ...{ kind: "new" as const, source, promptTokens: 64, method, texts },
    scores: texts.map(() => scoredTokens * (gain - 1)),
    ...rest,
  }));

test("rows compare each method with the base and with the mixture; means count each source once", () => {
  const scored = [
    ...scoredAt("one", { [nearest]: -0.5, [mixture]: 0.25 }),
    ...scoredAt("two", { [nearest]: 0.5, [mixture]: 0.75 }),
  ];
  const rows = rowsOf(scored, base);
  expect(rows.map(({ source, method }) => `${source} ${method}`)).toEqual([
    `one ${nearest}`,
    `one ${mixture}`,
    `two ${nearest}`,
    `two ${mixture}`,
  ]);
  expect(rows[0].overBase.nats.mean).toBe(-0.5);
  expect(rows[0].mixtureOver!.nats.mean).toBe(0.75);
  expect(rows[1].mixtureOver).toBeNull();
  expect(rows[1].overBase.bits.mean).toBeCloseTo(0.125 / Math.LN2, 12);
  const means = meansOf(rows, scored, base);
  const of = (method: string) => means.find((mean) => mean.method === method)!;
  expect(of(mixture).overBase.mean).toBe(0.5);
  expect(of(nearest).mixtureOver!.mean).toBe(0.5);
  expect(of(nearest).aheadOfMixture).toBe(0);
  expect(of(nearest).worst).toEqual({ mean: -0.5, boundary: -0.5, single: -0.5 });
});

/** Two sources of new text, where a control is .02 ahead, and one domain, where it is as far behind as is said. */
const besideControl = (behind: number) => {
  const control = "equal weights";
  const scored = [
    ...scoredAt("one", { [nearest]: -1, [mixture]: 0.25, [control]: 0.27 }),
    ...scoredAt("two", { [nearest]: -1, [mixture]: 0.5, [control]: 0.52 }),
    ...scoredAt("manual", { [nearest]: 1, [mixture]: 1, [control]: 1 - behind }, { kind: "trained" }),
  ];
  const rows = rowsOf(scored, base);
  const means = meansOf(rows, scored, base);
  return {
    scored,
    rows,
    means,
    of: (group: string) => means.find((one) => one.method === control && one.group === group)!,
  };
};

test("over all sources each counts once, whatever its kind, and worst texts are those of all", () => {
  const { of, means } = besideControl(0.4);
  const all = of("all");
  expect(all.sources).toBe(3);
  expect(all.overBase.mean).toBeCloseTo((0.27 + 0.52 + 0.6) / 3, 12);
  expect(all.mixtureOver!.mean).toBeCloseTo((-0.02 - 0.02 + 0.4) / 3, 12);
  // Sources are drawn anew: each of the three may be all that is drawn.
  expect(all.mixtureOver!.ci95[0]).toBeCloseTo(-0.02, 12);
  expect(all.mixtureOver!.ci95[1]).toBeCloseTo(0.4, 12);
  expect(all.aheadOfMixture).toBe(2);
  expect(all.worst.mean).toBeCloseTo(0.27, 12);
  expect(of("new").mixtureOver!.mean).toBeCloseTo(-0.02, 12);
  expect(of("trained").mixtureOver!.mean).toBeCloseTo(0.4, 12);
  const alone = scoredAt("one", { [mixture]: 0.25 });
  expect(meansOf(rowsOf(alone, base), alone, base).map(({ group }) => group)).toEqual(["new"]);
  expect(means.filter(({ method }) => method === mixture).map(({ group }) => group)).toEqual(["new", "trained", "all"]);
});

test("a control that does not lose over all sources fails its check, as on new text", () => {
  const failed = (behind: number) => {
    const { rows, means } = besideControl(behind);
    return checksOf(rows, means).filter(({ what, holds }) => what.includes("over equal weights") && !holds);
  };
  expect(failed(0.01)).toHaveLength(2);
  const scored = ["a", "b"].flatMap((source) => scoredAt(source, { [mixture]: 0.3, "equal weights": 0.2 }));
  scored.push(...scoredAt("manual", { [mixture]: 1, "equal weights": 0.8 }, { kind: "trained" }));
  const rows = rowsOf(scored, base);
  const checks = checksOf(rows, meansOf(rows, scored, base)).filter(({ what }) => what.includes("over equal weights"));
  expect(checks.map(({ holds }) => holds)).toEqual([true, true]);
});

test("the table of controls has a column for new text, domains and all, the best over all first", () => {
  const { rows, means } = besideControl(0.4);
  const sources = (["new", "trained"] as const).flatMap((kind) =>
    [...new Set(rows.filter((row) => row.kind === kind).map(({ source }) => source))].map((name) => ({
      ...{ kind, name, sha256: "", documents: texts.length, texts: texts.length },
    })),
  );
  const text = tables(sources, rows, means, controls);
  const lines = text.slice(text.indexOf("Beside controls")).split("\n");
  const [head, , ...body] = lines.filter((line) => line.startsWith("|")).map((line) => line.slice(2, -2).split(" | "));
  expect(head).toHaveLength(4);
  expect(body.map(([method]) => method)).toEqual([`**${mixture}**`, "equal weights", `**${nearest}**`]);
});

test.each([
  ["a source that loses", { a: 0.3, b: -0.02, c: 0.3 }, "interval of a source"],
  ["a mean below .08", { a: 0.05, b: 0.06, c: 0.055 }, "mean over sources"],
  ["worst texts that lose more than .1", { a: 0.3, b: -0.2, c: 0.3 }, "worst texts of all sources, their mean"],
  ["worst texts of one source that lose more than .1", { a: 0.3, b: -0.2, c: 0.3 }, "worst texts of a source"],
])("%s fails its check", (_, gains, what) => {
  const judged = (by: Record<string, number>) => {
    const scored = Object.entries(by).flatMap(([source, gain]) => scoredAt(source, { [mixture]: gain, [nearest]: -1 }));
    const rows = rowsOf(scored, base);
    return checksOf(rows, meansOf(rows, scored, base));
  };
  expect(judged({ a: 0.3, b: 0.25, c: 0.28 }).every(({ holds }) => holds)).toBe(true);
  expect(judged(gains).find((check) => check.what.includes(what))!.holds).toBe(false);
});

test("a trained domain that loses more than .02 to the nearest adapter fails its check", () => {
  const judged = (loss: number) => {
    const scored = [
      ...scoredAt("manual", { [mixture]: 1 - loss, [nearest]: 1 }, { kind: "trained" }),
      ...scoredAt("austen", { [mixture]: 0.5, [nearest]: 0 }, { kind: "trained" }),
    ];
    const rows = rowsOf(scored, base);
    return checksOf(rows, meansOf(rows, scored, base)).filter(({ holds }) => !holds);
  };
  expect(judged(0.015)).toEqual([]);
  expect(judged(0.03).map(({ found }) => found)).toEqual(["−0.030 (manual)"]);
});

const ids = Array.from({ length: 8 + scoredTokens }, (_, i) => i);
const answer = (logprobs: (number | null)[]) =>
  Response.json({ choices: [{ logprobs: { token_logprobs: logprobs } }] });
const client = (send: typeof fetch, rest: Partial<ApiOptions> = {}): ApiOptions => ({
  ...{ url: "http://127.0.0.1:1", key: "secret", fetch: send, pause: async () => {} },
  ...rest,
});

test("the API is asked to echo the prompt, of which what is not scored is evidence", async () => {
  const send = vi.fn<typeof fetch>(async () => answer(ids.map((_, i) => (i === 0 ? null : i < 8 ? -100 : -2))));
  expect(await scoreByApi(ids, mixture, client(send))).toBe(-2 * scoredTokens);
  const [address, options] = send.mock.calls[0];
  expect(String(address)).toBe("http://127.0.0.1:1/v1/completions");
  expect(options!.headers).toMatchObject({ authorization: "Bearer secret" });
  expect(JSON.parse(options!.body as string)).toEqual({
    ...{ model: "gpt2:auto", prompt: ids, max_tokens: 0, echo: true, logprobs: 0 },
    chameleon: { adapter: "auto", evidence_tokens: 8 },
  });
  await scoreByApi(ids, base, client(send));
  expect(JSON.parse(send.mock.lastCall![1]!.body as string)).toMatchObject({ model: "gpt2" });
  await scoreByApi(ids, nearest, client(send));
  const asked = JSON.parse(send.mock.lastCall![1]!.body as string);
  expect(asked).toMatchObject({ model: "gpt2:auto", chameleon: { adapter: "nearest", evidence_tokens: 8 } });
});

test("a busy API is asked again after the time it names; another refusal is an error with its words", async () => {
  const waits: number[] = [];
  const busy = () => new Response("slow down", { status: 429, headers: { "retry-after": "3" } });
  const send = vi
    .fn<typeof fetch>()
    .mockResolvedValueOnce(busy())
    .mockResolvedValueOnce(answer(ids.map(() => -1)));
  const pause = async (ms: number) => waits.push(ms);
  expect(await scoreByApi(ids, base, client(send, { pause }))).toBe(-scoredTokens);
  expect(waits).toEqual([3000]);
  const refusing = client(async () => new Response("no such field", { status: 400 }));
  await expect(scoreByApi(ids, base, refusing)).rejects.toThrow("400: no such field");
  const short = client(async () => answer([null, -1]));
  await expect(scoreByApi(ids, base, short)).rejects.toThrow("2 logprobs for a prompt of 72 tokens");
});

test("an API that does not know the field is not measured: it would ignore it", async () => {
  const knowing = client(async () => new Response("chameleon.evidence_tokens is -1", { status: 400 }));
  await expect(requireEvidenceTokens(knowing)).resolves.toBeUndefined();
  const ignoring = client(async () => answer([null, -1]));
  await expect(requireEvidenceTokens(ignoring)).rejects.toThrow("answered 200 to evidence_tokens of -1");
});
