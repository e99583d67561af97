/** Memories in the engine, on the small base: a sequence's tokens depend on its own memories, never on other sequences. */
import { describe, expect, test, vi } from "vitest";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { ownAdapterId, packOwnAdapter, withOwnAdapters } from "../../gpu-backend/adapters/own/artifact.ts";
import { openDeviceRunner } from "../../gpu-backend/kv/device-runner.ts";
import { HostKv } from "../../gpu-backend/kv/host-kv.ts";
import { inverseLength, keyScale } from "../../gpu-backend/memory/keys.ts";
import { type Memory, unpackMemory } from "../../gpu-backend/memory/memory.ts";
import type { StepInput, StepRunner } from "../../gpu-backend/runtime/step.ts";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { positionsOfEvidence, weigh } from "../../shared/math/evidence.ts";
import {
  brakePositions,
  memoryProbabilities,
  memoryShares,
  memoryWeight,
  defaultMemoryRule as rule,
  weighBrakes,
} from "../../shared/math/memory.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { type Batch, type EngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { openMemoryHarness, kinds as wordsByKind } from "../support/memory-harness.ts";
import { areClose, noPast, seededRandom, stepOf } from "../support/steps.ts";
import { webgpuFailure } from "../support/webgpu.ts";

const seed = 352;
const random = seededRandom(seed);
const prose = (words: number, of: readonly string[]) =>
  Array.from({ length: words }, () => of[Math.floor(random() ** 2 * of.length)]).join(" ");
const kinds = Object.values(wordsByKind);
const texts = kinds.map((words) => Array.from({ length: 3 }, () => prose(120, words)));

const model = stopAtEnd(await openMemoryHarness());
const { artifacts, runner, files, shape, encode, fileOf } = model;
const memories = new Map<string, Memory>();
const hashOf = (tenant: number) => `${tenant}`.repeat(64);
for (const [tenant, documents] of texts.entries()) {
  const file = await fileOf(documents.map((text, i) => [`tenant ${tenant} document ${i}`, text]));
  files.set(`t${tenant}/${hashOf(tenant)}`, file);
  memories.set(`t${tenant}`, unpackMemory(file, shape));
}

/** Hash of an adapter of tenant 0. The adapter's values are random, and large enough to change answers. */
const ownHash = "a".repeat(64);
const ownAdapters = {
  read: async (tenant: string, hash: string) => (tenant === "t0" && hash === ownHash ? ownAdapterFile() : null),
};
function ownAdapterFile(): Uint8Array {
  const D = shape.hiddenSize;
  const drawn = seededRandom(seed);
  const floats = (length: number) => Float32Array.from({ length }, () => 0.2 * (drawn() - 0.5));
  return packOwnAdapter({ a: floats(8 * D), b: floats(8 * D), c: floats(D) }, artifacts.manifestHash);
}
const source = withOwnAdapters(model.source, ownAdapters, shape);
const harness = (options: Parameters<typeof model.harness>[0] = {}) => model.harness({ source, ...options });

type Rest = Parameters<typeof sequenceRequest>[2];
/** A continuation of a tenant's text that reads that tenant's memory. */
const requestOf = (id: string, tenant: number, rest: Rest = {}, from = tenant): SequenceRequest =>
  sequenceRequest(id, encode(prose(20 + (tenant % 3) * 9, kinds[from])), {
    ...{ tenant: `t${tenant}`, memories: [{ hash: hashOf(tenant) }], maxTokens: 12 },
    ...rest,
    sampling: { ignore_eos: true, logprobs: 3, ...rest.sampling },
  });

/** A sequence's frames without times and cache statistics, which differ between runs. */
const framesOf = (target: EngineHarness, id: string) =>
  target.framesOf(id).map((frame) => {
    const { timings, reusedTokens, adapter, ...rest } = { timings: null, reusedTokens: 0, adapter: null, ...frame };
    return rest;
  });
const doneOf = (target: EngineHarness, id: string) => target.lastFrameOf(id) as Extract<Frame, { type: "done" }>;

const run = (requests: readonly SequenceRequest[], target = harness()) =>
  target.run(...requests.map((request): Batch => [null, request]));

/** The base's hidden state and probabilities at every position of `ids`, from one pass. */
async function baseOf(ids: readonly number[]) {
  const { config } = artifacts.model;
  const gates = new Float32Array(runner.gates);
  const step = stepOf(config, [{ tokenIds: [...ids], gates, ...noPast(config) }]);
  const rows = Int32Array.from(ids.keys());
  const output = await runner.run({
    ...step,
    ...{ headRows: rows, gates: new Float32Array(ids.length * runner.gates) },
    ...{ inverseTemperatures: new Float32Array(ids.length).fill(1), targetIds: new Int32Array(ids.length) },
  });
  const { vocabularySize: V, hiddenSize: D } = config;
  return ids.map((_, t) => ({
    state: output.states.slice(t * D, (t + 1) * D),
    model: Float64Array.from(output.scores!.subarray(t * V, (t + 1) * V), (score) =>
      Math.exp(score - output.logSumExp[t]),
    ),
  }));
}

/** A memory's probabilities and weight in double precision, over every key and the whole vocabulary. */
function reference({ keys, nextIds }: Memory, { state, model }: { state: Float32Array; model: Float64Array }) {
  const D = state.length;
  const nearest = Array.from(nextIds, (id, n) => {
    let dot = 0;
    for (let d = 0; d < D; d++) dot += state[d] * keys[n * D + d];
    return { id, n, cosine: (dot * inverseLength(state)) / keyScale };
  })
    .sort((a, b) => b.cosine - a.cosine || a.n - b.n)
    .slice(0, rule.neighbours);
  const found = {
    cosines: Float32Array.from(nearest, ({ cosine }) => cosine),
    nextIds: Int32Array.from(nearest, ({ id }) => id),
  };
  const probabilities = memoryProbabilities(found, rule);
  const says = { cosine: nearest[0].cosine, memory: Math.max(...probabilities.values()), model: Math.max(...model) };
  return { probabilities, weight: memoryWeight(rule, says) };
}

test(`an answer's probabilities are those of the formula (seed ${seed})`, async () => {
  for (const tenant of [0, 1, 2]) {
    const request = requestOf("a", tenant, { compare: true, sources: true });
    const target = await run([request]);
    const generated = target.tokensOf("a");
    expect(generated).toHaveLength(12);
    const ids = [...request.promptIds, ...generated];
    const base = await baseOf(ids);
    const own = memories.get(`t${tenant}`)!;
    const positions = positionsOfEvidence(request.promptIds.length, undefined, brakePositions);
    const brakes = weighBrakes(
      rule,
      positions.map((t) => base[t].model[ids[t + 1]]),
      [
        positions.map((t) => {
          const { weight, probabilities } = reference(own, base[t]);
          return { weight, probability: probabilities.get(ids[t + 1]) ?? 0 };
        }),
      ],
    );
    const mean = brakes[0].reduce((sum, weight, k) => sum + weight * rule.brakes[k], 0);
    expect(doneOf(target, "a").memories).toEqual([{ hash: hashOf(tenant), brake: expect.closeTo(mean, 3) }]);
    for (const [i, frame] of target.tokenFramesOf("a").entries()) {
      const { model, ...at } = base[request.promptIds.length - 1 + i];
      const { probabilities, weight } = reference(own, { model, ...at });
      const [share] = memoryShares(rule, [weight], brakes);
      const mixed = model.map((p, id) => (1 - share) * p + share * (probabilities.get(id) ?? 0));
      expect(mixed.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 4);
      const ranked = [...mixed.keys()].sort((a, b) => mixed[b] - mixed[a]);
      for (const [rank, [id, logprob]] of frame.alternatives!.entries()) {
        expect(logprob).toBeCloseTo(Math.log(mixed[ranked[rank]]), 2);
        expect(Math.log(mixed[id])).toBeCloseTo(logprob, 2);
      }
      expect(frame.logprob).toBe(frame.alternatives![0][1]);
      expect(frame.baseLogprob).toBeCloseTo(Math.log(model[frame.tokenId]), 2);
      const ofMemory = (share * (probabilities.get(frame.tokenId) ?? 0)) / mixed[frame.tokenId];
      expect(frame.sources!.share).toBeCloseTo(ofMemory, 2);
    }
  }
});

const ownMixture = {
  ...{ base: 0.5, adapters: [{ adapterHash: ownHash, weight: 0.5 }] },
  evidence: { tokens: 16, temper: 0.3, floor: 0.1 },
};

test(`an own adapter is weighed by what it adds to a memory beside it (seed ${seed})`, async () => {
  const beside = requestOf("beside", 0, { mixture: ownMixture });
  const alone: SequenceRequest = { ...beside, id: "alone", memories: undefined };
  const scored = { ...alone, id: "scored", mixture: undefined, maxTokens: 0, promptLogprobs: true };
  const target = await harness().run([null, beside, alone], [ownAdapterId("t0", ownHash), scored]);
  const prompt = target.framesOf("scored").find((frame) => frame.type === "prompt");
  const ids = beside.promptIds;
  const base = await baseOf(ids);
  const positions = positionsOfEvidence(16);
  const expected = (isBeside: boolean) => {
    const logprobs = positions.map((t) => {
      const experts = [
        { p: base[t].model[ids[t + 1]], greatest: Math.max(...base[t].model) },
        { p: Math.exp(prompt!.logprobs[t + 1]!), greatest: Math.exp(prompt!.alternatives[t + 1][0][1]) },
      ];
      return experts.map(({ p, greatest }) => {
        if (!isBeside) return Math.log(p);
        const { weight, probabilities } = reference(memories.get("t0")!, {
          ...base[t],
          model: Float64Array.of(greatest),
        });
        // Until the prompt has chosen a factor for the memory's weight, each factor counts with its prior probability.
        const share = [0.3, 1, 1.6].reduce(
          (sum, brake, k) => sum + [0.25, 0.35, 0.15][k] * Math.min(0.9, brake * weight),
          0,
        );
        return Math.log((1 - share) * p + share * (probabilities.get(ids[t + 1]) ?? 0));
      });
    });
    return weigh([0.5, 0.5], ownMixture.evidence, logprobs).weights;
  };
  const [with_, without] = [true, false].map(expected);
  expect(Math.abs(with_.base - without.base)).toBeGreaterThan(0.02);
  expect(doneOf(target, "beside").mixture!.base).toBeCloseTo(with_.base, 3);
  expect(doneOf(target, "alone").mixture!.base).toBeCloseTo(without.base, 3);
});

test("sources name the tenant's own passages, which end with the token", async () => {
  const target = await run([requestOf("a", 1, { sources: true, maxTokens: 30 })]);
  const passages = target
    .tokenFramesOf("a")
    .flatMap(({ sources, tokenId }) => sources!.passages.map((one) => ({ ...one, tokenId })));
  expect(passages.length).toBeGreaterThan(20);
  for (const { document, start, end, tokenId, memory } of passages) {
    expect(memory).toBe(0);
    const text = Buffer.from(texts[1][Number(/^tenant 1 document (\d)$/.exec(document)![1])]);
    const piece = Buffer.from(artifacts.tokenizer.textPieceOf(tokenId)).toString();
    const passage = text.subarray(start, end).toString();
    expect(passage.endsWith(piece)).toBe(true);
    expect(passage.trim().split(/\s+/).length).toBeLessThanOrEqual(13);
  }
});

/** Sequences of every kind: those of three tenants, and some without a memory. */
function mixedWork(): SequenceRequest[] {
  const [first] = artifacts.manifest.centroids;
  const evidence = { tokens: 16, temper: 0.3, floor: 0.1 };
  const mixture = { base: 0.5, adapters: [{ centroidId: first.id, weight: 0.5 }], evidence };
  const rests: Rest[] = [
    {},
    { sampling: { temperature: 0.8, seed: 3 }, sources: true },
    { sampling: { temperature: 1, top_p: 0.7, seed: 5, repetition_penalty: 1.3 } },
    { sampling: { temperature: 0.7, top_k: 20, logprobs: null, presence_penalty: 1 } },
    { promptLogprobs: true, mixture, compare: true },
    { promptLogprobs: true, maxTokens: 0, mixture },
    { tenant: "t0", memories: [{ hash: hashOf(0) }], mixture: ownMixture },
    { memories: undefined, sampling: { temperature: 0.8 } },
    { memories: undefined, sampling: { logprobs: null } },
    { sampling: { logprobs: null }, compare: true },
  ];
  return Array.from({ length: 30 }, (_, i) => requestOf(`s${i}`, i % 3, rests[Math.floor(i / 3)]));
}

describe("a sequence's frames are the same, bit for bit,", () => {
  test("alone and among sequences of other tenants with other memories, parked or not", async () => {
    const work = mixedWork();
    const together = await run(work);
    const parking = harness({ kvBytes: 2 ** 22, limits: { maxSequences: 9 } });
    await run(work, parking);
    const staggered = harness({ prefixBytes: 0 });
    for (const request of work) {
      await staggered.engine.submit(null, [request]);
      await staggered.engine.step();
    }
    await staggered.finish();
    let guessed = 0;
    for (const request of work) {
      const lone = await run([request]);
      const alone = framesOf(lone, request.id);
      guessed += lone.engine.stats.drafts.accepted;
      expect(alone.at(-1)).toMatchObject({ type: "done" });
      expect(framesOf(together, request.id)).toEqual(alone);
      expect(framesOf(staggered, request.id)).toEqual(alone);
      expect(framesOf(parking, request.id)).toEqual(alone);
    }
    expect(guessed).toBeGreaterThan(0);
  });

  test("whether its memory was open or had to be opened again", async () => {
    const target = harness({ cacheBytes: 1 });
    for (const round of [0, 1]) {
      for (const tenant of [0, 1, 2]) {
        const request = requestOf(`r${tenant}`, tenant, {}, tenant);
        const first = framesOf(await run([request]), request.id);
        expect(framesOf(await run([{ ...request, id: `${round}${tenant}` }], target), `${round}${tenant}`)).toEqual(
          first.map((frame) => ({ ...frame, id: `${round}${tenant}` })),
        );
      }
    }
    expect(target.engine.stats.memories).toMatchObject({ opened: 6, entries: 0 });
  });

  test("where it is resumed after any of its tokens", async () => {
    const request = requestOf("a", 2, { sampling: { temperature: 0.9, seed: 11 } });
    const whole = await run([request]);
    const tokens = whole.tokensOf("a");
    for (const kept of [1, 5, 11]) {
      const resumed = await run([{ ...request, continuedIds: tokens.slice(0, kept) }]);
      expect(resumed.tokenFramesOf("a")).toEqual(whole.tokenFramesOf("a").slice(kept));
      expect(doneOf(resumed, "a").memories).toEqual(doneOf(whole, "a").memories);
    }
  });

  test("for each of several choices of one prompt", async () => {
    const request = requestOf("a", 0, { sampling: { temperature: 1 } });
    const forks = Array.from({ length: 4 }, (_, i) => ({
      ...{ ...request, id: `f${i}` },
      sampling: { ...request.sampling, seed: 100 + i },
    }));
    const together = await run(forks);
    expect(new Set(forks.map(({ id }) => together.tokensOf(id).join())).size).toBeGreaterThan(1);
    for (const fork of forks) expect(framesOf(together, fork.id)).toEqual(framesOf(await run([fork]), fork.id));
  });
});

test("64 rows of 16 tenants, each with its own memory, have the tokens and passages in one step that each has alone", async () => {
  const hash = "f".repeat(64);
  const tenants = Array.from({ length: 16 }, (_, i) => `many${i}`);
  for (const [i, tenant] of tenants.entries()) {
    const text = `${prose(60, kinds[i % 3])} ${tenant} ${prose(60, kinds[i % 3])}`;
    files.set(`${tenant}/${hash}`, await fileOf([[`${tenant}.md`, text]]));
  }
  const work = Array.from({ length: 64 }, (_, i) => {
    const row = { tenant: tenants[i % 16], memories: [{ hash }], sources: true, maxTokens: 6 };
    return requestOf(`w${i}`, (i % 16) % 3, { ...row, sampling: i < 32 ? {} : { temperature: 0.9, seed: i } });
  });
  const limits = { maxSequences: 64, stepTokens: 8192 };
  const together = await run(work, harness({ limits }));
  expect(Math.max(...together.reports.map(({ phase, sequences }) => (phase === "decode" ? sequences : 0)))).toBe(64);
  let passages = 0;
  for (const { tenant, ...request } of work) {
    const alone = framesOf(await run([{ tenant, ...request }]), request.id);
    expect(framesOf(together, request.id)).toEqual(alone);
    for (const { sources } of together.tokenFramesOf(request.id)) {
      for (const { document } of sources!.passages) expect(document).toBe(`${tenant}.md`);
      passages += sources!.passages.length;
    }
  }
  expect(passages).toBeGreaterThan(64);
}, 300_000);

/** A device's rounding may turn a state into another int8 key or query, which moves a memory's probabilities. */
const deviceTolerance = 5e-3;

test.skipIf(await webgpuFailure())(
  "on WebGPU answers with memories are the CPU's, and so are a memory's keys",
  async () => {
    const device = await openDeviceRunner(
      { ...artifacts.model, bank: bankOf(artifacts.hyperNetwork) },
      { maxSequences: 8, kvBytes: 2 ** 27, threads: 2 },
    );
    const work = [0, 1, 2].flatMap((tenant) => [
      requestOf(`greedy${tenant}`, tenant, { sources: true }),
      requestOf(`foreign${tenant}`, tenant, { sampling: { temperature: 0.7, seed: tenant } }, (tenant + 1) % 3),
    ]);
    work.push(requestOf("own", 0, { mixture: ownMixture, compare: true }));
    const query: [number, number] = [0, 12];
    work.push(
      requestOf("retrieved", 1, {
        retrieval: { passages: 1, tokens: 60, query, at: 0, prefixIds: [1], separatorIds: [2] },
      }),
    );
    const keysOn = async (target: EngineHarness) => {
      const keys: number[] = [];
      const take = (_: string, values: ArrayLike<number>) => void keys.push(...Array.from(values));
      const { promptIds } = work[0];
      await target.engine.submit(null, [sequenceRequest("keys", promptIds, { maxTokens: 0 })], { kind: "keys", take });
      await target.finish();
      return keys;
    };
    const [expected, found] = [harness(), harness({ runner: device, limits: { maxSequences: 8 } })];
    for (const target of [expected, found]) await run(work, target);
    for (const { id } of work) {
      expect(found.tokensOf(id)).toEqual(expected.tokensOf(id));
      expect(framesOf(found, id)).toSatisfy((frames) => areClose(frames, framesOf(expected, id), deviceTolerance));
    }
    const keys = await keysOn(expected);
    expect(keys.length).toBeGreaterThan(0);
    expect(await keysOn(found)).toSatisfy((own) => areClose(own, keys, 1));
    await device.release();
  },
);

test("text of its own kind chooses a brake, and text of another kind none", async () => {
  const own = [0, 1, 2].map((tenant) => requestOf(`own${tenant}`, tenant));
  const foreign = [0, 1, 2].map((tenant) => requestOf(`foreign${tenant}`, tenant, {}, (tenant + 1) % 3));
  const target = await run([...own, ...foreign]);
  const brakeOf = ({ id }: SequenceRequest) => doneOf(target, id).memories![0].brake;
  for (const request of own) expect(brakeOf(request)).toBeGreaterThan(1);
  for (const request of foreign) expect(brakeOf(request)).toBeLessThan(0.7);
});

test.each([
  ["greedy", {}],
  ["sampled", { temperature: 1 }],
])("a memory adds one run to a prompt and none to a step: %s", async (_, sampling) => {
  const runs: StepInput[] = [];
  const counted: StepRunner = {
    ...{ config: runner.config, gates: runner.gates, classBytes: runner.classBytes, release: async () => {} },
    run(input) {
      runs.push(input);
      return runner.run(input);
    },
  };
  await run(
    [requestOf("a", 0, { maxTokens: 4, sampling: { ...sampling, logprobs: null } })],
    harness({ runner: counted }),
  );
  const rowsOf = ({ rows, sequences, want }: StepInput) => ({ sequences, rows: rows!.length, scores: want.scores });
  const step = { sequences: 1, rows: 1, scores: true };
  const evidence = { sequences: 0, rows: expect.toSatisfy((rows: number) => rows <= brakePositions), scores: false };
  expect(runs.map(rowsOf)).toEqual([step, evidence, step, step, step]);
});

test("several memories of one answer compete", async () => {
  const hash = "d".repeat(64);
  files.set(`t0/${hash}`, files.get(`t1/${hashOf(1)}`)!);
  const request = requestOf("a", 0, { memories: [{ hash }, { hash: hashOf(0) }] });
  const target = await run([request]);
  const [foreign, own] = doneOf(target, "a").memories!;
  expect(own.brake).toBeGreaterThan(5 * foreign.brake);
});

test("another tenant's memory and a missing one are not found, and other sequences are served", async () => {
  const good = requestOf("good", 0);
  const bad: SequenceRequest[] = [
    requestOf("foreign", 0, { memories: [{ hash: hashOf(1) }] }),
    requestOf("none", 0, { memories: [{ hash: hashOf(0) }, { hash: "e".repeat(64) }] }),
  ];
  const target = await run([...bad, good]);
  for (const { id } of bad) expect(target.framesOf(id)).toMatchObject([{ type: "error", kind: "memory_not_found" }]);
  expect(framesOf(target, "good")).toEqual(framesOf(await run([good]), "good"));
  expect(target.engine.stats.memories).toMatchObject({ pinnedBytes: 0 });
});

test.each([
  ["one", hashOf(1)],
  ["all", null],
])("deleting %s ends the answers that read it, in the middle or waiting, and no other", async (_, hash) => {
  const target = harness({ limits: { maxSequences: 2 } });
  const [reader, mate] = [requestOf("reader", 1, { maxTokens: 40 }), requestOf("mate", 0)];
  const waiting = requestOf("waiting", 1);
  for (const request of [reader, mate, waiting]) await target.engine.submit(null, [request]);
  while (target.tokensOf("reader").length < 5) await target.engine.step();
  target.engine.dropMemory("t1", hash);
  await target.finish();
  expect(target.tokensOf("reader")).toHaveLength(5);
  for (const id of ["reader", "waiting"]) {
    expect(target.lastFrameOf(id)).toMatchObject({ type: "error", kind: "memory_deleted" });
  }
  expect(framesOf(target, "mate")).toEqual(framesOf(await run([mate]), "mate"));
  expect(target.engine.stats.memories).toMatchObject({ entries: 1, pinnedBytes: 0 });
});

test("a cancelled sequence releases its memory", async () => {
  const target = harness();
  await target.engine.submit(null, [requestOf("a", 0, { maxTokens: 40 })]);
  await target.engine.step();
  expect(target.engine.stats.memories!.pinnedBytes).toBeGreaterThan(0);
  target.engine.cancel(["a"]);
  await target.finish();
  expect(target.engine.stats.memories).toMatchObject({ entries: 1, pinnedBytes: 0 });
});

test("beside an own adapter, one search of the prompt serves the mixture and the brakes", async () => {
  const states = vi.spyOn(HostKv.prototype, "states");
  const target = await run([requestOf("once", 0, { mixture: ownMixture, maxTokens: 1 })]);
  expect(doneOf(target, "once").mixture).toBeDefined();
  // The positions of the evidence, then that of the only token.
  const searched = states.mock.calls.map(([positions]) => positions.length).filter((count) => count > 0);
  expect(searched).toEqual([positionsOfEvidence(16).length, 1]);
  states.mockRestore();
});
