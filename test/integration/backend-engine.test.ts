/** The engine on real ONNX sessions: a sequence's tokens and logprobs depend on that sequence alone. */

import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bankOf, gatesOf, readHyperNetwork } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { type Artifacts, readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import type { PlanLimits } from "../../gpu-backend/engine/plan.ts";
import { tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import type { Frame, MixtureRequest, PromptFrame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { samplingWith } from "../../shared/contracts/sampling.ts";
import { evidencePositions, positionsOfEvidence, weigh } from "../../shared/math/evidence.ts";
import { type Batch, type EngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { type ModelHarness, openDeviceHarness, openModelHarness } from "../support/model-harness.ts";
import { oracleHidden, oracleLogits, oracleLogSumExp } from "../support/oracle.ts";
import { areClose, seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { readTinyArtifacts } from "../support/tiny-families.ts";
import { tinyCentroids, tinyConfig, writeTinyModel } from "../support/tiny-model.ts";
import { webgpuFailure } from "../support/webgpu.ts";

const seed = 2026;
/** How much logprobs may differ: the engine computes them from float32 logits of a few units, the oracle from float64 logits. */
const exactTolerance = 2e-4;
/**
 * An int8 key or value is off by up to 0.4% of the largest value in its vector. With this seed a logprob of the tiny model is then off by
 * at most 0.25 nats.
 */
const int8Tolerance = 0.4;
const random = seededRandom(seed);
const neverEnds: [number, number][] = [[tinyConfig.stopIds[0], -100]];

const folder = temporaryFolder();
await writeTinyModel(folder);
let served: Pick<ModelHarness, "artifacts" | "harness" | "stop">;

const harness = (limits: Partial<PlanLimits> = {}) => served.harness({ limits });
const randomPrompt = (length: number) => Array.from({ length }, () => Math.floor(random() * 299));

const rule: NonNullable<MixtureRequest["evidence"]> = { tokens: 1024, temper: 0.1, floor: 0.05 };
const mixtureOf = (evidence: MixtureRequest["evidence"], ...ids: string[]): MixtureRequest => ({
  base: 0.5,
  adapters: ids.map((centroidId) => ({ centroidId, weight: 0.5 / ids.length })),
  evidence,
});

const mixtureIn = (frame: Frame | undefined) => (frame?.type === "done" ? frame.mixture : null);

interface Work {
  centroid: string | null;
  request: SequenceRequest;
}
/**
 * 33 sequences under the base and all centroids, alone and in mixtures of up to three adapters. Some prompts are a token longer than a
 * chunk or than a KV block. Experts are weighed by the whole prompt, by one token of it, or as the request says.
 */
function mixedWork(temperature: number): Work[] {
  const evidenceOf = (i: number): MixtureRequest["evidence"] => {
    if (i % 5 <= 1) return undefined;
    return i % 7 === 3 ? { ...rule, spans: [[60, 61]] } : rule;
  };
  return Array.from({ length: 33 }, (_, i) => ({
    centroid: [...tinyCentroids, null][i % 5],
    request: sequenceRequest(`s${i}`, randomPrompt([3, 64, 65, 100, 1, 130, 17][i % 7]), {
      maxTokens: 30 + (i % 4) * 10,
      // Without `evidence`, a mixture keeps the weights given here.
      mixture: i % 3 > 0 ? mixtureOf(evidenceOf(i), ...tinyCentroids.slice(0, i % 4)) : undefined,
      sampling: {
        ...{ temperature, top_p: i % 2 ? 1 : 0.9, seed: i, logit_bias: neverEnds, logprobs: 1 },
        ...(i % 4 === 3 && { repetition_penalty: [2, 1.3, 0.8][i % 3] }),
        ...(i % 5 === 3 && { min_tokens: 20, stop_token_ids: [i], ignore_eos: true }),
      },
    }),
  }));
}
const submit = (target: EngineHarness, { centroid, request }: Work) => target.engine.submit(centroid, [request]);
const run = (work: readonly Work[], target = harness()) =>
  target.run(...work.map(({ centroid, request }): Batch => [centroid, request]));

type Kind = [family: "GPT-2" | "Llama", kv: "fp32" | "int8" | "fp32 on WebGPU"];
const onHost: Kind[] = [
  ["GPT-2", "fp32"],
  ["Llama", "fp32"],
  ["Llama", "int8"],
];
const onDevices: Kind[] = [["Llama", "fp32 on WebGPU"]];
const kinds = process.env.TEST_DEVICE ? onDevices.slice((await webgpuFailure()) ? 1 : 0) : onHost;
describe.each(kinds)("a %s with keys and values as %s", (family, kv) => {
  const tolerance = kv === "int8" ? int8Tolerance : exactTolerance;
  const onDevice = kv === "fp32 on WebGPU";
  /** Expects equal bits on the CPU. On a device a row's bits may depend on its batch, so tokens must be equal and numbers close. */
  const expectSame = (found: unknown, expected: unknown) => {
    if (!onDevice) return expect(found).toEqual(expected);
    return expect(found).toSatisfy((value) => areClose(value, expected, exactTolerance));
  };
  beforeAll(async () => {
    const artifacts = await readTinyArtifacts(folder, family);
    served = kv === "fp32 on WebGPU" ? await openDeviceHarness(artifacts) : await openModelHarness(artifacts, { kv });
  });
  afterAll(() => served.stop());

  describe("batch invariance: the same tokens and the same logprobs, bit for bit", () => {
    test.each([
      ["greedy", 0],
      ["seeded", 1],
    ])("%s: alone, among 32 mates of mixed centroids, and joined while they decode", async (_, temperature) => {
      const work = mixedWork(temperature);
      const together = await run(work);
      const staggered = harness({ stepTokens: 128 });
      for (const [i, one] of work.entries()) {
        await submit(staggered, one);
        for (let s = 0; s < 1 + (i % 3); s++) await staggered.engine.step();
      }
      await staggered.finish();
      const texts = new Set<string>();
      for (const one of work) {
        const { id } = one.request;
        const alone = await run([one]);
        const { maxTokens, sampling } = one.request;
        const { stop_token_ids, min_tokens } = samplingWith(sampling);
        const { length } = alone.tokensOf(id);
        if (stop_token_ids.length === 0) expect(length).toBe(maxTokens);
        else expect(length).toBeGreaterThanOrEqual(min_tokens);
        for (const other of [together, staggered]) {
          expectSame(other.tokenFramesOf(id), alone.tokenFramesOf(id));
          expectSame(mixtureIn(other.lastFrameOf(id)), mixtureIn(alone.lastFrameOf(id)));
        }
        texts.add(alone.tokensOf(id).join());
      }
      expect(texts.size).toBeGreaterThan(25);
      const widest = Math.max(...together.reports.map(({ sequences }) => sequences));
      expect(widest).toBe(33);
      expect(together.engine.stats).toMatchObject({ running: 0, waiting: 0 });
    });

    test.each([
      ["greedy", 0],
      ["seeded", 1],
    ])("%s: continued by another engine from any number of its tokens", async (_, temperature) => {
      const work = mixedWork(temperature);
      const first = await run(work);
      const continued = work.flatMap(({ centroid, request }) => {
        const ids = first.tokensOf(request.id);
        return [1, 2, 13, ids.length - 1].map((known) => ({
          centroid,
          request: { ...request, id: `${request.id}_${known}`, continuedIds: ids.slice(0, known) },
        }));
      });
      // The prefix cache is off here; prefix-cache.test.ts tests what a hit may change.
      const second = await run(continued, served.harness({ prefixBytes: 0 }));
      let different = 0;
      let largest = 0;
      for (const { request } of work) {
        const whole = first.tokenFramesOf(request.id);
        for (const known of [1, 2, 13, whole.length - 1]) {
          const rest = second.tokenFramesOf(`${request.id}_${known}`);
          const expected = whole.slice(known);
          if (rest.map(({ tokenId }) => tokenId).join() !== expected.map(({ tokenId }) => tokenId).join()) different++;
          for (const [i, { logprob }] of rest.entries()) {
            largest = Math.max(largest, Math.abs(logprob! - expected[i].logprob!));
          }
        }
      }
      expect(different).toBe(0);
      expect(largest).toBeLessThanOrEqual(onDevice ? exactTolerance : 0);
    });

    test("parked for other tenants, while prefilling or decoding, and resumed", async () => {
      const work = mixedWork(1).map(({ centroid, request }, i) => ({
        centroid,
        request: { ...request, tenant: i % 4 === 3 ? `modest${i % 3}` : "greedy" },
      }));
      const crowded = harness({ maxSequences: 4, stepTokens: 256 });
      for (const one of work.filter(({ request }) => request.tenant === "greedy")) await submit(crowded, one);
      for (const one of work.filter(({ request }) => request.tenant !== "greedy")) {
        for (let i = 0; i < 25; i++) await crowded.engine.step();
        await submit(crowded, one);
      }
      await crowded.finish();
      for (const one of work) {
        const alone = await run([one]);
        expectSame(crowded.tokenFramesOf(one.request.id), alone.tokenFramesOf(one.request.id));
      }
      const { preemptions } = crowded.engine.stats;
      expect(preemptions).toBeGreaterThan(5);
    });
  });

  test.each([
    ["while all of it came before the other", 20],
    ["while all of it came after", 0],
  ])("a burst beside another tenant, %s: every text is bit for bit what it is alone", async (_, steps) => {
    const heavy = mixedWork(1).map(({ centroid, request }) => ({ centroid, request: { ...request, tenant: "heavy" } }));
    const quiet = Array.from({ length: 2 }, (_, i) => ({
      centroid: tinyCentroids[i],
      request: sequenceRequest(`quiet${i}`, randomPrompt(20 + 50 * i), {
        ...{ tenant: "quiet", maxTokens: 120 },
        sampling: { temperature: 1, seed: i, logit_bias: neverEnds, logprobs: 1 },
      }),
    }));
    // Adds a prompt whose beginning is cached, and a prompt whose own tokens are scored.
    const [longest] = heavy.filter(({ request }) => request.promptIds.length === 130);
    heavy.push({
      ...longest,
      request: { ...longest.request, id: "again", promptIds: [...longest.request.promptIds, 5] },
    });
    heavy.push({ ...longest, request: { ...longest.request, id: "scored", promptLogprobs: true } });
    const crowded = harness({ maxSequences: 12 });
    for (const one of steps > 0 ? heavy : quiet) await submit(crowded, one);
    for (let i = 0; i < Math.max(steps, 3); i++) await crowded.engine.step();
    for (const one of steps > 0 ? quiet : heavy) await submit(crowded, one);
    await crowded.finish();
    for (const one of [...heavy, ...quiet]) {
      const alone = await run([one]);
      expectSame(crowded.framesOf(one.request.id).slice(0, -1), alone.framesOf(one.request.id).slice(0, -1));
    }
  });

  function logprobsOf(logits: Float64Array): Float64Array {
    const total = oracleLogSumExp(logits);
    return logits.map((logit) => logit - total);
  }
  /** A centroid's id, a weight for each centroid's id, or null for the base alone. */
  type Weights = Record<string, number> | string | null;
  const oracleLogprobs = (history: number[], weights: Weights) => logprobsOf(logitsAfter(history, weights));

  /** The oracle's logits [V] for the token after `history`, with gates summed over centroids by weight. */
  function logitsAfter(history: number[], weights: Weights): Float64Array {
    const { model, hyperNetwork, manifest } = served.artifacts;
    const bank = bankOf(hyperNetwork);
    const P = manifest.embedding.dimensions;
    const gates = new Float32Array(bank.gates);
    const network = readHyperNetwork(hyperNetwork);
    for (const [centroid, weight] of Object.entries(typeof weights === "string" ? { [weights]: 1 } : (weights ?? {}))) {
      const k = manifest.centroids.findIndex(({ id }) => id === centroid);
      const vector = toFloat32(tensorOf(hyperNetwork, "centroids")).subarray(k * P, (k + 1) * P);
      const own = gatesOf(network, vector, manifest.centroids[k].scale);
      own.forEach((gate, q) => {
        gates[q] += weight * gate;
      });
    }
    const hidden = oracleHidden(model.config, model.weights, history).at(-1)!;
    return oracleLogits(model.config, model.weights, hidden, bank, gates);
  }

  const parts: [number, number][] = [
    [5, 11],
    [30, 34],
  ];
  test.each([
    ["its prompt", undefined, evidencePositions],
    ["parts of its prompt", parts, 10],
  ])("a mixture weighed by %s gives the oracle's logprobs, and so does the base", async (_, spans, looked) => {
    const ids = [...randomPrompt(30), ...randomPrompt(8)];
    ids.push(...ids.slice(4, 24));
    const sampling = { seed: 3, temperature: 0.9, logprobs: 5, frequency_penalty: 0.5, logit_bias: neverEnds };
    const mixture = mixtureOf({ ...rule, spans }, "c0", "c1");
    const request = sequenceRequest("a", ids, { maxTokens: 8, compare: true, mixture, sampling });
    const target = await harness().run(["c0", request]);
    const done = target.lastFrameOf("a");
    if (done?.type !== "done" || !done.mixture) throw new Error("no mixture");
    const weights = { base: done.mixture.base, adapters: done.mixture.adapters.map(({ weight }) => weight) };
    const logprobs = positionsOfEvidence(ids.length, spans).map((t) =>
      [null, "c0", "c1"].map((centroid) => oracleLogprobs(ids.slice(0, t + 1), centroid)[ids[t + 1]]),
    );
    const expected = weigh([0.5, 0.25, 0.25], rule, logprobs);
    expect(done.mixture.evidence!.tokens).toBe(looked);
    const off = [
      done.mixture.base - expected.weights.base,
      ...weights.adapters.map((weight, j) => weight - expected.weights.adapters[j]),
      done.mixture.evidence!.nats - expected.evidence.nats,
    ].map(Math.abs);
    expect(Math.max(...off)).toBeLessThan(tolerance);

    const history = [...ids];
    const counts = new Map<number, number>();
    let worst = 0;
    for (const frame of target.tokenFramesOf("a")) {
      const steered = (logits: Float64Array) => {
        for (const [id, count] of counts) logits[id] -= 0.5 * count;
        logits[tinyConfig.stopIds[0]] -= 100;
        return logprobsOf(logits);
      };
      const [c0, c1] = weights.adapters;
      const ofMixture = steered(logitsAfter(history, { c0, c1 }));
      for (const [id, logprob] of [[frame.tokenId, frame.logprob!], ...frame.alternatives!]) {
        worst = Math.max(worst, Math.abs(logprob - ofMixture[id]));
      }
      worst = Math.max(worst, Math.abs(frame.baseLogprob! - steered(logitsAfter(history, null))[frame.tokenId]));
      history.push(frame.tokenId);
      counts.set(frame.tokenId, (counts.get(frame.tokenId) ?? 0) + 1);
    }
    expect(target.tokensOf("a")).toHaveLength(8);
    expect(worst).toBeLessThan(tolerance);
  });

  test("a mixture that is all one adapter is that adapter, and one that is all base is the base, bit for bit", async () => {
    const ids = randomPrompt(40);
    const sampling = { temperature: 1, seed: 9, logprobs: 5, repetition_penalty: 1.2, logit_bias: neverEnds };
    const request = (id: string, mixture?: MixtureRequest) =>
      sequenceRequest(id, ids, { maxTokens: 12, promptLogprobs: true, mixture, sampling });
    const all = (weight: number): MixtureRequest => ({ base: 1 - weight, adapters: [{ centroidId: "c1", weight }] });
    const adapted = [request("adapter"), request("mixture", all(1)), request("none", all(0))];
    const target = await harness().run(["c1", ...adapted], [null, request("base")]);
    const framesOf = (id: string) => target.framesOf(id).slice(0, -1);
    const named = (id: string, frames: Frame[]) => frames.map((frame) => ({ ...frame, id }));
    expect(framesOf("mixture")).toEqual(named("mixture", framesOf("adapter")));
    expect(framesOf("none")).toEqual(named("none", framesOf("base")));
    expect(framesOf("adapter")).not.toEqual(named("adapter", framesOf("base")));
  });

  /** Penalises repetition in place, as CTRL does (arXiv 1909.05858). */
  function penalise(logits: Float64Array, history: readonly number[], penalty: number): Float64Array {
    for (const id of new Set(history)) logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    return logits;
  }

  test.each([
    ["an adapter's logits", "c1", undefined],
    ["the base's", null, undefined],
    ["a mixture's", "c0", [0.25, 0.5, 0.25]],
    ["a mixture's that is the base alone", null, [1, 0, 0]],
  ])("a repetition penalty is of %s, before bias and the other penalties", async (_, centroid, given) => {
    for (const repetition_penalty of [1.4, 0.7]) {
      const history = randomPrompt(40);
      const others = { presence_penalty: 0.5, logit_bias: neverEnds, logprobs: 0, temperature: 1, seed: 4 };
      const sampling = { repetition_penalty, ...others };
      const mixture = given && {
        base: given[0],
        adapters: ["c0", "c1"].map((centroidId, j) => ({ centroidId, weight: given[1 + j] })),
      };
      const request = sequenceRequest("a", history, { maxTokens: 12, compare: true, mixture, sampling });
      const target = await harness().run([centroid, request]);
      const generated = new Set<number>();
      let worst = 0;
      let unpenalised = 0;
      for (const frame of target.tokenFramesOf("a")) {
        const logprobOf = (logits: Float64Array) => {
          const penalised = penalise(logits, history, repetition_penalty);
          for (const id of generated) penalised[id] -= 0.5;
          penalised[tinyConfig.stopIds[0]] -= 100;
          return penalised[frame.tokenId] - oracleLogSumExp(penalised);
        };
        const logits = logitsAfter(history, given ? { c0: given[1], c1: given[2] } : centroid);
        const free = logits[frame.tokenId] - oracleLogSumExp(logits);
        worst = Math.max(worst, Math.abs(frame.logprob! - logprobOf(logits)));
        worst = Math.max(worst, Math.abs(frame.baseLogprob! - logprobOf(logitsAfter(history, null))));
        unpenalised = Math.max(unpenalised, Math.abs(frame.logprob! - free));
        history.push(frame.tokenId);
        generated.add(frame.tokenId);
      }
      expect(target.tokensOf("a")).toHaveLength(12);
      expect(worst).toBeLessThan(tolerance);
      expect(unpenalised).toBeGreaterThan(100 * exactTolerance);
    }
  });

  test.each([
    ["an adapter", undefined],
    ["a mixture", mixtureOf(rule, "c0", "c1")],
    ["a mixture of given weights", mixtureOf(undefined, "c2")],
  ])("%s is held to min_tokens, also where its end is all but certain, and ends right then", async (_, mixture) => {
    const [endOfTextId] = tinyConfig.stopIds;
    for (const temperature of [0, 2]) {
      const logit_bias: [number, number][] = [endOfTextId, 7].map((id) => [id, 100]);
      const sampling = { min_tokens: 9, stop_token_ids: [7], logit_bias, temperature, seed: 5, logprobs: 20 };
      const request = sequenceRequest("a", randomPrompt(20), { maxTokens: 30, compare: true, mixture, sampling });
      const target = await harness().run(["c0", request]);
      expect(target.lastFrameOf("a")).toMatchObject({ finishReason: "stop", completionTokens: 9 });
      const seen = target
        .tokenFramesOf("a")
        .flatMap(({ tokenId, alternatives }) => [tokenId, ...alternatives!.map(([id]) => id)]);
      expect(seen).toHaveLength(9 * 21);
      expect(seen).not.toContain(endOfTextId);
      expect(seen).not.toContain(7);
    }
  });

  test("tokens after the evidence are scored as a continuation would be, the evidence by the base", async () => {
    const ids = randomPrompt(150);
    const short = mixtureOf({ ...rule, tokens: 40 }, "c0");
    const sampling = { logprobs: 0 };
    const target = await harness().run([
      "c0",
      sequenceRequest("scored", ids, { maxTokens: 0, promptLogprobs: true, mixture: short, sampling }),
      sequenceRequest("prompt", ids.slice(0, 40), { maxTokens: 1, mixture: mixtureOf(rule, "c0"), sampling }),
    ]);
    const [scored] = target.framesOf("scored");
    const [first, done] = target.framesOf("prompt");
    if (scored.type !== "prompt" || first.type !== "token" || done.type !== "done") throw new Error("other frames");
    // Both sequences have the same weights: the evidence of "scored" is the 40 tokens that are the whole prompt of "prompt".
    expect(target.lastFrameOf("scored")).toMatchObject({ mixture: done.mixture });
    expect(scored.logprobs).toHaveLength(150);
    const base = Math.abs(scored.logprobs[20]! - oracleLogprobs(ids.slice(0, 20), null)[ids[20]]);
    const c0 = done.mixture!.adapters[0].weight;
    const mixed = Math.abs(scored.logprobs[120]! - oracleLogprobs(ids.slice(0, 120), { c0 })[ids[120]]);
    expect(Math.max(base, mixed)).toBeLessThan(tolerance);
  });

  describe("logprobs", () => {
    test("of sampled tokens, their alternatives and the base are the oracle's", async () => {
      const ids = randomPrompt(66);
      const sampling = { temperature: 0.9, seed: 3, logprobs: 4 };
      const request = sequenceRequest("a", [...ids], { maxTokens: 8, compare: true, sampling });
      const target = await harness().run(["c1", request]);
      let worst = 0;
      for (const frame of target.tokenFramesOf("a")) {
        const adapted = oracleLogprobs(ids, "c1");
        const base = oracleLogprobs(ids, null);
        const differences = [
          frame.logprob! - adapted[frame.tokenId],
          frame.baseLogprob! - base[frame.tokenId],
          ...frame.alternatives!.map(([id, logprob]) => logprob - adapted[id]),
        ];
        worst = Math.max(worst, ...differences.map(Math.abs));
        expect(frame.alternatives!.length).toBe(4);
        ids.push(frame.tokenId);
      }
      expect(target.tokensOf("a").length).toBeGreaterThan(0);
      expect(worst).toBeLessThan(tolerance);
    });

    test("of a prompt are the oracle's, whatever the chunks", async () => {
      const ids = randomPrompt(90);
      const byChunk: PromptFrame[] = [];
      for (const chunkTokens of [64, 32, 7]) {
        const rest = { maxTokens: 0, promptLogprobs: true, compare: true, sampling: { logprobs: 2 } };
        const target = await harness({ chunkTokens }).run(["c2", sequenceRequest("a", ids, rest)]);
        const [frame] = target.framesOf("a");
        if (frame.type !== "prompt") throw new Error(`the first frame is ${frame.type}`);
        byChunk.push(frame);
      }
      let againstOracle = 0;
      let acrossChunks = 0;
      for (const i of [1, 2, 6, 7, 8, 31, 32, 33, 63, 64, 65, 89]) {
        const adapted = oracleLogprobs(ids.slice(0, i), "c2")[ids[i]];
        const base = oracleLogprobs(ids.slice(0, i), null)[ids[i]];
        for (const frame of byChunk) {
          againstOracle = Math.max(againstOracle, Math.abs(frame.logprobs[i]! - adapted));
          againstOracle = Math.max(againstOracle, Math.abs(frame.baseLogprobs![i]! - base));
        }
      }
      for (let i = 1; i < ids.length; i++) {
        for (const frame of byChunk) {
          acrossChunks = Math.max(acrossChunks, Math.abs(frame.logprobs[i]! - byChunk[0].logprobs[i]!));
        }
      }
      expect(againstOracle).toBeLessThan(tolerance);
      // Each of two chunkings may differ from the oracle by the tolerance, in opposite directions.
      expect(acrossChunks).toBeLessThan(2 * tolerance);
    });

    test("differ between centroids, and are the static adapter's bit for bit where a centroid is off", async () => {
      const ids = randomPrompt(20);
      const off = tinyCentroids.at(-1)!;
      const rest = { maxTokens: 1, sampling: { logprobs: 5, logit_bias: neverEnds } };
      const centroids = [null, "c0", "c1", "static", off];
      const batches = centroids.map((id): Batch => [id, sequenceRequest(`${id}`, ids, rest)]);
      const target = await harness().run(...batches);
      const [base, c0, c1, fixed, offFrame] = ["null", "c0", "c1", "static", off].map(
        (id) => target.tokenFramesOf(id)[0].alternatives,
      );
      expect(offFrame).toEqual(fixed);
      expect(fixed).not.toEqual(base);
      expect(c0).not.toEqual(base);
      expect(c1).not.toEqual(base);
      expect(c0).not.toEqual(c1);
    });
  });

  test("the smallest and the largest temperature give finite numbers and whole completions", async () => {
    const requests = [1e-30, 1.1e-3, 2].map((temperature) => {
      const sampling = { temperature, seed: 1, logprobs: 1, logit_bias: neverEnds };
      return sequenceRequest(`t${temperature}`.replace(".", "_"), randomPrompt(5), { sampling });
    });
    const target = await harness().run(["c0", ...requests]);
    for (const { id } of requests) {
      expect(target.tokensOf(id).length).toBe(16);
      for (const { logprob } of target.tokenFramesOf(id)) expect(Number.isFinite(logprob)).toBe(true);
    }
  });
});

describe("artifacts are held against the manifest", () => {
  /** Reads a copy of the model with one file changed. */
  async function readChanged(name: string, change: (bytes: Buffer) => Uint8Array | string): Promise<Artifacts> {
    const directory = temporaryFolder();
    await cp(folder, directory, { recursive: true });
    const file = join(directory, name);
    await writeFile(file, change(await readFile(file)));
    return readArtifacts(directory);
  }
  const flipLastBit = (bytes: Buffer) => bytes.with(-1, bytes.at(-1)! ^ 1);
  const replaced = (from: string, to: string) => (bytes: Buffer) => {
    expect(bytes.toString()).toContain(from);
    return bytes.toString().replace(from, to);
  };
  test.each(["model.safetensors", "artifacts/tokenizer.safetensors", "artifacts/hyper-network.safetensors"])(
    "a changed %s is refused with both hashes",
    async (name) => {
      const file = name.replace("artifacts/", "");
      await expect(readChanged(name, flipLastBit)).rejects.toThrow(
        new RegExp(`^${file}(:| has \\d+ bytes of) SHA-256 (is )?[0-9a-f]{64}.*[0-9a-f]{64}$`),
      );
    },
  );

  test("an invalid manifest is refused; another stop id in the config is not, as the manifest says what ends a text", async () => {
    const { stopIds } = tinyConfig;
    const other = readChanged("config.json", replaced(`"eos_token_id":299`, `"eos_token_id":8`));
    await expect(other).resolves.toMatchObject({ model: { config: { stopIds } } });
    const otherFormat = replaced(`"format": 1`, `"format": 2`);
    await expect(readChanged("artifacts/manifest.json", otherFormat)).rejects.toThrow(/format/);
  });
});
