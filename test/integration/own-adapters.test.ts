/**
 * Tenants' own adapters on real ONNX sessions and in real processes: they share steps with centroids and the base without changing
 * them, are fitted while others are served, survive a restart, and serve their tenant alone.
 */
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { bankOf, readHyperNetwork } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import {
  ownAdapterHash,
  ownAdapterId,
  packOwnAdapter,
  withOwnAdapters,
} from "../../gpu-backend/adapters/own/artifact.ts";
import { changeOf } from "../../gpu-backend/adapters/own/fit.ts";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import type { PlanLimits } from "../../gpu-backend/engine/plan.ts";
import type { TracedValues } from "../../gpu-backend/engine/traces.ts";
import type { Delta } from "../../gpu-backend/runtime/fit-session.ts";
import type { Bank } from "../../gpu-backend/runtime/step.ts";
import {
  type AdapterAnswer,
  adapterAnswerSchema,
  type MixtureRequest,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import { atEnd, stopAtEnd } from "../support/at-end.ts";
import { allFrames, type Backend, startBackend } from "../support/backend-process.ts";
import { type Batch, sequenceRequest } from "../support/engine-harness.ts";
import { openModelHarness } from "../support/model-harness.ts";
import { oracleHidden, oracleLogits, oracleLogSumExp } from "../support/oracle.ts";
import { seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyConfig, writeTinyModel } from "../support/tiny-model.ts";

const seed = 5150;
const tolerance = 2e-4;
const random = seededRandom(seed);
const tenants = ["acme", "other"];
const neverEnds: [number, number][] = [[tinyConfig.stopIds[0], -100]];

const folder = temporaryFolder();
await writeTinyModel(folder, seed);
const model = stopAtEnd(await openModelHarness(await readArtifacts(folder)));
const { artifacts, runner } = model;
const files = new Map<string, Uint8Array>();
const deltas = new Map<string, Delta | null>();

const floats = (length: number, spread: number) => Float32Array.from({ length }, () => spread * (2 * random() - 1));
function randomDelta(): Delta {
  const D = tinyConfig.hiddenSize;
  return { a: floats(8 * D, 0.5), b: floats(8 * D, 0.5), c: floats(D, 0.5) };
}

for (const tenant of tenants) {
  for (const delta of [randomDelta(), randomDelta(), null]) {
    const file = packOwnAdapter(delta, artifacts.manifestHash);
    const id = ownAdapterId(tenant, ownAdapterHash(tenant, file));
    files.set(id, file);
    deltas.set(id, delta);
  }
}

const read = async (tenant: string, hash: string) => files.get(ownAdapterId(tenant, hash)) ?? null;
const source = withOwnAdapters(model.source, { read }, { manifestHash: artifacts.manifestHash, ...tinyConfig });
const harness = (limits?: Partial<PlanLimits>) => model.harness({ source, limits });
/** The bank with one more direction, which adds a fixed vector [D]. */
function withDirection(bank: Bank, vector: Float32Array): Bank {
  const D = tinyConfig.hiddenSize;
  const more = (values: Float32Array, ...rest: number[]) => Float32Array.of(...values, ...rest);
  return {
    gates: bank.gates + 1,
    a: more(bank.a, ...new Float32Array(D)),
    a0: more(bank.a0, 1),
    b: more(bank.b, ...vector.subarray(0, D), ...new Float32Array(Math.max(0, D - vector.length))),
  };
}

const randomPrompt = (length: number) => Array.from({ length }, () => Math.floor(random() * 299));

test("a completion is the same alone and among mates with adapters of all kinds, bit for bit", async () => {
  const applied = [...files.keys(), "c0", "c1", null];
  const logit_bias: [number, number][] = [...neverEnds, [7, 1]];
  const all = Array.from({ length: 33 }, (_, i): [string | null, SequenceRequest] => [
    applied[i % applied.length],
    sequenceRequest(`s${i}`, randomPrompt([3, 64, 65, 1, 30][i % 5]), {
      maxTokens: 6 + (i % 4) * 6,
      compare: i % 3 === 0,
      promptLogprobs: i % 5 === 4,
      sampling: { temperature: i % 2, seed: i, logprobs: 1, ...(i % 4 === 0 && { frequency_penalty: 1 }), logit_bias },
    }),
  ]);
  const together = await harness().run(...all);
  const texts = new Set<string>();
  for (const [adapterId, request] of all) {
    const alone = await harness().run([adapterId, request]);
    expect(alone.tokensOf(request.id)).toHaveLength(request.maxTokens);
    expect(together.framesOf(request.id).slice(0, -1)).toEqual(alone.framesOf(request.id).slice(0, -1));
    texts.add(alone.tokensOf(request.id).join());
  }
  expect(together.engine.stats).toMatchObject({ running: 0, waiting: 0 });
  expect(texts.size).toBeGreaterThan(25);
});

test("64 classifiers of 64 tenants in one batch tell what each tells alone, bit for bit", async () => {
  const labels = [11, 12, 13];
  const text = randomPrompt(40);
  const all = Array.from({ length: 64 }, (_, i): [string, SequenceRequest] => {
    const file = packOwnAdapter(randomDelta(), artifacts.manifestHash);
    const adapterId = ownAdapterId(`tenant-${i}`, ownAdapterHash(`tenant-${i}`, file));
    files.set(adapterId, file);
    const request = sequenceRequest(`label-${i}`, i % 2 ? text : randomPrompt(20 + i / 2), {
      ...{ tenant: `tenant-${i}`, maxTokens: 2 },
      sampling: { logprobs: labels.length, logit_bias: labels.map((id) => [id, 100]) },
    });
    return [adapterId, request];
  });
  // All prompts run in one step, so all second tokens are decoded in one pass.
  const together = await harness({ maxSequences: all.length, stepTokens: 2 ** 16 }).run(...all);
  const told = new Set<string>();
  for (const [adapterId, request] of all) {
    const alone = await harness().run([adapterId, request]);
    const frames = alone.tokenFramesOf(request.id);
    expect(frames.map(({ alternatives }) => alternatives!.map(([id]) => id).sort())).toEqual([labels, labels]);
    expect(together.framesOf(request.id).slice(0, -1)).toEqual(alone.framesOf(request.id).slice(0, -1));
    told.add(JSON.stringify(frames[0].alternatives));
    files.delete(adapterId);
  }
  expect(told.size, "each tenant's is its own").toBe(all.length);
  expect(together.reports.map(({ phase, sequences }) => [phase, sequences])).toEqual([
    ["prefill", all.length],
    ["decode", all.length],
  ]);
});

test("an adapter serves the oracle's static adapter with its change, and one that is off serves the base", async () => {
  const ids = randomPrompt(40);
  const rest = { maxTokens: 1, compare: true, sampling: { logprobs: 4 } };
  const batches = [...files.keys()].map((id, n): Batch => [id, sequenceRequest(`o${n}`, ids, rest)]);
  const target = await harness().run(...batches);
  const { model, hyperNetwork } = artifacts;
  const hidden = oracleHidden(model.config, model.weights, ids).at(-1)!;
  const bank = bankOf(hyperNetwork);
  const differences: number[] = [];
  const none = new Float32Array(runner.gates);
  const { staticGates } = readHyperNetwork(hyperNetwork);
  for (const [i, delta] of [...deltas.values()].entries()) {
    const logprobsOf = (delta: Delta | null) => {
      const change = delta ? changeOf(delta, Float32Array.from(hidden)) : none;
      const wide = withDirection(bank, change);
      const gates = Float32Array.of(...(delta ? staticGates : none), 1);
      const logits = oracleLogits(model.config, model.weights, hidden, wide, gates);
      const total = oracleLogSumExp(logits);
      return logits.map((logit) => logit - total);
    };
    const [adapted, base] = [logprobsOf(delta), logprobsOf(null)];
    const [frame] = target.tokenFramesOf(`o${i}`);
    const told: [number, number][] = [[frame.tokenId, frame.logprob!], ...frame.alternatives!];
    for (const [id, logprob] of told) differences.push(Math.abs(logprob - adapted[id]));
    differences.push(Math.abs(frame.baseLogprob! - base[frame.tokenId]));
  }
  expect(Math.max(...differences)).toBeLessThan(tolerance);
});

test("the evidence of a mixture of own adapters is scored as the base scores it, bit for bit", async () => {
  const ids = randomPrompt(100);
  const sampling = { logprobs: 0 };
  const own = [...files.keys()].find((id) => id.startsWith("acme/") && deltas.get(id))!;
  const mixture: MixtureRequest = {
    base: 0.5,
    adapters: [{ adapterHash: own.split("/")[1], weight: 0.5 }],
    evidence: { tokens: 100, temper: 0.1, floor: 0.1 },
  };
  const target = await harness().run(
    [null, sequenceRequest("base", ids, { maxTokens: 0, promptLogprobs: true, sampling })],
    [own, sequenceRequest("mixed", ids, { tenant: "acme", maxTokens: 1, promptLogprobs: true, mixture, sampling })],
  );
  const scoresOf = (id: string) => target.framesOf(id).find(({ type }) => type === "prompt");
  expect(scoresOf("mixed")).toMatchObject({ logprobs: expect.any(Array) });
  expect(scoresOf("mixed")).toEqual({ ...scoresOf("base"), id: "mixed" });
});

test("a mixture of own adapters and a centroid is the same alone and among mates, bit for bit", async () => {
  const [first, second] = [...files.keys()].filter((id) => id.startsWith("acme/")).map((id) => id.split("/")[1]);
  const mixed = (id: string, own: string[], tenant = "acme") => {
    const adapters = own.map((adapterHash) => ({ adapterHash, weight: 0.6 / own.length }));
    return sequenceRequest(id, [1, 2, 3], {
      ...{ tenant, maxTokens: 6, compare: true, sampling: { logprobs: 2, logit_bias: neverEnds } },
      mixture: { base: 0.1, adapters: [...adapters, { centroidId: "c0", weight: 0.3 }] },
    });
  };
  const requests = [mixed("one", [first]), mixed("both", [first, second])];
  const mate = sequenceRequest("mate", [1, 2, 3], { maxTokens: 6 });
  const together = await harness().run(["c1", mate], ...requests.map((request): Batch => [null, request]));
  for (const request of requests) {
    const alone = await harness().run([null, request]);
    expect(alone.tokensOf(request.id)).toHaveLength(6);
    expect(together.framesOf(request.id).slice(0, -1)).toEqual(alone.framesOf(request.id).slice(0, -1));
  }
});

test("tracing a prompt returns only the states before its learnt tokens, bit for bit", async () => {
  const ids = randomPrompt(70);
  const states = async (from: number) => {
    const one = harness();
    const { promise, resolve } = Promise.withResolvers<TracedValues>();
    const trace = { kind: "hidden" as const, from: [from], take: (_: string, values: TracedValues) => resolve(values) };
    await one.engine.submit(null, [sequenceRequest("t", ids, { maxTokens: 0 })], trace);
    await one.finish();
    return promise;
  };
  const D = tinyConfig.hiddenSize;
  const all = await states(1);
  expect(all).toHaveLength(69 * D);
  for (const from of [5, 69]) expect(await states(from)).toEqual(all.subarray((from - 1) * D));
});

test("a tenant's adapter is out of another's reach, also by its hash", async () => {
  const target = harness();
  const [tenant, hash] = [...files.keys()][0].split("/");
  expect(tenant).toBe("acme");
  await target.engine.submit(ownAdapterId("other", hash), [sequenceRequest("thief", [1, 2])]);
  expect(target.lastFrameOf("thief")).toMatchObject({ type: "error" });
});

describe("backends", async () => {
  const data = temporaryFolder();
  const start = (directory: string) =>
    startBackend({ MODEL_DIR: folder, DATA_DIR: join(data, directory), THREADS: "1" });
  const backends = await Promise.all([start("one"), start("two")]);
  atEnd(() => Promise.all(backends.map((backend) => backend.stop())));

  /** A task that the random base does not know: the prompt's last token decides the label. */
  const cues = [5, 6];
  const labelOf = (cue: number) => 200 + cue;
  const examples = Array.from({ length: 160 }, (_, i) => {
    const cue = cues[i % 2];
    return { ids: [...randomPrompt(10 + (i % 5)), cue, labelOf(cue), tinyConfig.stopIds[0]], from: 11 + (i % 5) };
  });
  const ask = (backend: Backend, rest: object = {}) => {
    const { manifestHash } = backend;
    return backend.post("/v1/adapters", { version: 4, manifestHash, tenant: "acme", examples, ...rest });
  };
  const make = async (backend: Backend, rest?: object) => {
    const response = await ask(backend, rest);
    expect(response.status, await response.clone().text()).toBe(201);
    return adapterAnswerSchema.parse(await response.json());
  };
  const errorOf = async (response: Response) => {
    const { error } = (await response.json()) as ErrorEnvelope;
    return { status: response.status, ...error };
  };
  /** Asks for a sequence under an own adapter. */
  const apply = (backend: Backend, adapterHash: string, tenant = "acme") => {
    const request = sequenceRequest("s", [1, 2, 3], { tenant, sampling: { logit_bias: neverEnds } });
    return backend.post("/v1/batches", { ...backend.batch(null, [request]), adapterHash });
  };
  const framesUnder = async (...call: Parameters<typeof apply>) => allFrames(await apply(...call));
  const bytesOf = ({ file }: AdapterAnswer) => Uint8Array.from(Buffer.from(file, "base64"));
  const bring = ({ url }: Backend, tenant: string, hash: string, body: Uint8Array<ArrayBuffer>) =>
    fetch(`${url}/v1/adapters/${tenant}/${hash}`, { method: "PUT", body });
  const remove = ({ url }: Backend, tenant: string, hash: string) =>
    fetch(`${url}/v1/adapters/${tenant}/${hash}`, { method: "DELETE" });

  test("make it of examples, tell its gain, serve it, keep it over a restart, hand it on, forget it", async () => {
    const [one, two] = backends;
    const answer = await make(one);
    const { hash } = answer;
    expect(answer.kept).toBe(true);
    expect(answer.losses[0].heldOut).toBeGreaterThan(answer.losses.at(-1)!.heldOut);
    expect(answer.gain!.ci95[0]).toBeGreaterThan(0.5);
    expect(answer.tokens).toBe(examples.reduce((sum, { ids }) => sum + ids.length, 0));
    const questions = Array.from({ length: 20 }, (_, i) =>
      sequenceRequest(`q${i}`, [...randomPrompt(10 + (i % 5)), cues[i % 2]], { tenant: "acme", maxTokens: 1 }),
    );
    const told = await one.frames(null, questions, { adapterHash: hash });
    const labels = new Map(told.flatMap((frame) => (frame.type === "token" ? [[frame.id, frame.tokenId]] : [])));
    const right = questions.filter(({ id }, i) => labels.get(id) === labelOf(cues[i % 2]));
    expect(right.length, "of 20, where the base has 0 and one label 10").toBeGreaterThanOrEqual(12);
    const before = await framesUnder(one, hash);
    expect(before.at(-1)).toMatchObject({ type: "done", adapter: { hash, scale: 1 } });
    expect(await errorOf(await apply(two, hash))).toMatchObject({ status: 404, code: "adapter_not_found" });
    const mixture = { base: 0.5, adapters: [{ adapterHash: hash, weight: 0.5 }] };
    const mixed = (backend: Backend, ...tenants: string[]) => {
      const sequences = tenants.map((tenant, i) => sequenceRequest(`m${i}`, [1, 2, 3], { tenant, mixture }));
      return backend.post("/v1/batches", backend.batch("c0", sequences));
    };
    expect(await errorOf(await mixed(two, "acme"))).toMatchObject({ status: 404, code: "adapter_not_found" });
    expect(await errorOf(await mixed(one, "acme", "other"))).toMatchObject({ status: 400 });
    const mixtureFrames = await allFrames(await mixed(one, "acme"));
    expect(mixtureFrames.at(-1)).toMatchObject({ mixture: { adapters: [{ hash, weight: 0.5 }] } });
    const file = bytesOf(answer);
    expect((await bring(two, "acme", hash, file)).status).toBe(204);
    expect((await bring(two, "other", hash, file)).status, "the hash is the tenant's").toBe(400);
    expect((await bring(two, "acme", hash, file.fill(0, -8))).status).toBe(400);
    expect((await framesUnder(two, hash)).slice(0, -1)).toEqual(before.slice(0, -1));
    expect(await errorOf(await apply(two, hash, "other"))).toMatchObject({ status: 404 });

    await two.stop("SIGTERM");
    const again = await start("two");
    backends[1] = again;
    expect((await framesUnder(again, hash)).slice(0, -1)).toEqual(before.slice(0, -1));
    for (const _ of [1, 2]) expect((await remove(again, "acme", hash)).status).toBe(204);
    expect((await apply(again, hash)).status).toBe(404);
  });

  test("an adapter whose file is damaged counts as missing once an engine has read it", async () => {
    const [one] = backends;
    const answer = await make(one, { tenant: "harmed" });
    const { hash } = answer;
    const tenants = join(data, "one/tenants/adapters");
    const name = (await readdir(tenants, { recursive: true })).find((path) => path.endsWith(hash))!;
    const bytes = await readFile(join(tenants, name));
    bytes[bytes.length >> 1] ^= 1;
    await writeFile(join(tenants, name), bytes);
    const [frame] = await framesUnder(one, hash, "harmed");
    expect(frame).toMatchObject({ type: "error", kind: "adapter_not_found" });
    expect(await errorOf(await apply(one, hash, "harmed"))).toMatchObject({ status: 404 });
    expect((await bring(one, "harmed", hash, bytesOf(answer))).status).toBe(204);
    expect((await framesUnder(one, hash, "harmed")).at(-1)).toMatchObject({ type: "done" });
  });

  test("a backend whose disk takes nothing serves the adapter from memory, says so, and stays ready", async () => {
    const file = join(data, "no-folder");
    await writeFile(file, "");
    const backend = await start("no-folder");
    backends.push(backend);
    const answer = await make(backend);
    const { hash } = answer;
    const frames = await framesUnder(backend, hash);
    expect(frames.at(-1)).toMatchObject({ type: "done", adapter: { hash } });
    const ready = await fetch(`${backend.url}/readyz`);
    expect([ready.status, await ready.json()]).toMatchObject([200, { diskFault: "ENOTDIR" }]);
    expect(await backend.metric("chameleon_adapter_write_failures_total")).toBe(1);
    expect((await bring(backend, "acme", hash, bytesOf(answer))).status).toBe(204);
    expect((await remove(backend, "acme", hash)).status).toBe(204);
    expect((await apply(backend, hash)).status).toBe(404);
  });

  test("the same examples give the same adapter, and others are served meanwhile", async () => {
    const [one] = backends;
    const request = sequenceRequest("busy", [1], { maxTokens: 200, sampling: { logit_bias: neverEnds } });
    const busy = one.frames("c0", [request]);
    const making = Promise.all([1, 2].map(() => make(one)));
    expect((await busy).at(-1)).toMatchObject({ type: "done", completionTokens: 200 });
    const [first, second] = await making;
    expect(second).toMatchObject({ hash: first.hash, gain: first.gain });
  });

  test("fits of 8 tenants take turns: all have their first before any has its second", async () => {
    const [one] = backends;
    const ended: string[] = [];
    const tenants = Array.from({ length: 8 }, (_, i) => `turns-${i}`);
    const makeFor = async (tenant: string, count = 32) => {
      await make(one, { tenant, examples: examples.slice(0, count) });
      ended.push(tenant);
    };
    // The first two fits take longer, so that all other requests are waiting when the first two end.
    const first = tenants.slice(0, 2).map((tenant) => makeFor(tenant, examples.length));
    const others = [...tenants.slice(0, 2), ...tenants.slice(2).flatMap((tenant) => [tenant, tenant])];
    await Promise.all([...first, ...others.map((tenant) => makeFor(tenant))]);
    // Two fits run at once, so one tenant's second fit may end before the last tenant's first one.
    expect(new Set(ended.slice(0, 8)).size, ended.join()).toBeGreaterThanOrEqual(7);
    expect(new Set(ended.slice(0, 9)).size, ended.join()).toBe(8);
  });

  const [example] = examples;
  const long = { ids: new Array(200).fill(1), from: 1 };
  test.each<[string, object[], string]>([
    ["a single example", [{ ids: [1, 2, 3], from: 1 }], "at examples"],
    ["an example of which nothing is learnt", [example, { ids: [3, 4], from: 2 }], "at examples"],
    [
      "a token out of the vocabulary",
      [example, { ids: [3, 300], from: 1 }],
      "Token id 300 is out of the vocabulary of 300",
    ],
    ["too much text", new Array(100).fill(long), "19900 tokens to be learnt, the maximum is 16384"],
  ])("refuse %s", async (_, refused, message) => {
    const error = await errorOf(await ask(backends[0], { examples: refused }));
    expect(error).toMatchObject({ status: 400, message: expect.stringContaining(message) });
  });
});
