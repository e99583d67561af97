/** Passages that the engine puts into a prompt, on the small base: if the test puts the same tokens there, the answer is the same. */
import { describe, expect, test } from "vitest";
import type { DoneFrame, SequenceRequest } from "../../shared/contracts/inference.ts";
import type { Retrieval } from "../../shared/contracts/retrieval.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { type Batch, type EngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { kinds, openMemoryHarness } from "../support/memory-harness.ts";
import { seededRandom } from "../support/steps.ts";

const seed = 356;
const random = seededRandom(seed);
const prose = (words: number, of: readonly string[]) =>
  Array.from({ length: words }, () => of[Math.floor(random() ** 2 * of.length)]).join(" ");
type Kind = keyof typeof kinds;
const documents = Object.entries(kinds).map(([kind, words]): [string, string] => [kind, prose(60, words)]);

const { artifacts, files, encode, harness, fileOf } = stopAtEnd(await openMemoryHarness());
const hash = "a".repeat(64);
for (const tenant of ["t0", "t1"]) {
  const own = documents.map(([kind, text]): [string, string] => [`${tenant} ${kind}`, `${text} of ${tenant}`]);
  files.set(`${tenant}/${hash}`, await fileOf(own));
}
const run = (requests: readonly SequenceRequest[], target = harness()) =>
  target.run(...requests.map((request): Batch => [null, request]));

/** A request with a prompt of one kind of text. It asks for passages after the prompt's third token. */
function requestOf(id: string, kind: Kind, rest: Partial<SequenceRequest> = {}, wanted: Partial<Retrieval> = {}) {
  const promptIds = encode(prose(20, kinds[kind]));
  const tokens = promptIds.length;
  const mixture = {
    ...{ base: 0.5, adapters: [{ centroidId: artifacts.manifest.centroids[0].id, weight: 0.5 }] },
    evidence: { tokens: tokens - 1, temper: 0.3, floor: 0.1 },
  };
  const around = { prefixIds: encode("By this: "), separatorIds: encode("\n\n") };
  const retrieval = { passages: 1, tokens: 256, query: [0, tokens] as [number, number], at: 3, ...around, ...wanted };
  const sampling = { ignore_eos: true, logprobs: 3, repetition_penalty: 1.1, ...rest.sampling };
  const request = { tenant: "t0", memories: [{ hash }], maxTokens: 10, mixture, retrieval, ...rest };
  return sequenceRequest(id, promptIds, { ...request, sampling });
}

const doneOf = (target: EngineHarness, id: string) => target.lastFrameOf(id) as DoneFrame;
/** A sequence's frames without times, cache statistics and retrieved passages. */
const framesOf = (target: EngineHarness, id: string) =>
  target.framesOf(id).map((frame) => {
    const others = { timings: 0, reusedTokens: 0, adapter: 0, retrieved: 0, retrievedTokens: 0, id: 0 };
    const { timings, reusedTokens, adapter, retrieved, retrievedTokens, id: _, ...rest } = { ...others, ...frame };
    return rest;
  });

const documentIds = (tenant: string, kind: string) =>
  encode(`${documents.find(([name]) => name === kind)![1]} of ${tenant}`);

describe(`a prompt (seed ${seed})`, () => {
  /** The request with `ids` inserted by hand. Only the first `evidenceTokens` tokens of the original prompt weigh its experts, not `ids`. */
  const byHand = ({ retrieval, ...request }: SequenceRequest, ids: number[], evidenceTokens: number) => {
    const promptIds = request.promptIds.toSpliced(3, 0, ...ids);
    const tokens = evidenceTokens + ids.length;
    const spans: [number, number][] = [
      [0, 3],
      [3 + ids.length, tokens],
    ];
    const { mixture = { base: 1, adapters: [] } } = request;
    return { ...request, promptIds, mixture: { ...mixture, evidence: { temper: 0.3, floor: 0.1, tokens, spans } } };
  };

  test.each(Object.keys(kinds) as Kind[])("of %s gets its kind's passage, as if by hand", async (kind) => {
    const request = requestOf("a", kind);
    const { retrieval, ...plain } = request;
    const target = await run([request]);
    const passage = documentIds("t0", kind);
    const ids = [...retrieval!.prefixIds, ...passage, ...retrieval!.separatorIds];
    const done = doneOf(target, "a");
    expect(done).toMatchObject({
      retrieved: [{ memory: 0, document: `t0 ${kind}`, start: 0, tokens: passage.length }],
      promptTokens: request.promptIds.length + ids.length,
    });
    expect(done.retrieved![0].end).toBe(Buffer.from(`${documents.find(([name]) => name === kind)![1]} of t0`).length);
    expect(target.tokenFramesOf("a").map(({ retrievedTokens }) => retrievedTokens)).toEqual([
      ids.length,
      ...new Array(9).fill(undefined),
    ]);
    const same = await run([byHand(request, ids, request.promptIds.length - 1)]);
    expect(framesOf(target, "a")).toEqual(framesOf(same, "a"));
    const without = await run([plain]);
    expect(framesOf(target, "a")).not.toEqual(framesOf(without, "a"));
  });

  test.each([0, 256])("without a mixture chooses brakes by its own tokens (passages: %i tokens)", async (tokens) => {
    const request = requestOf("a", "river", { mixture: undefined }, { tokens });
    const { retrieval, ...plain } = request;
    const { prefixIds, separatorIds } = retrieval!;
    const ids = tokens > 0 ? [...prefixIds, ...documentIds("t0", "river"), ...separatorIds] : [];
    const [target, same] = [await run([request]), await run([byHand(request, ids, request.promptIds.length)])];
    expect(target.tokensOf("a")).toEqual(same.tokensOf("a"));
    expect(doneOf(target, "a").memories).toEqual(doneOf(same, "a").memories);
    if (tokens === 0) expect(framesOf(target, "a")).toEqual(framesOf(await run([plain]), "a"));
  });

  test("has the nearest of several first", async () => {
    const one = doneOf(await run([requestOf("a", "chess")]), "a");
    const request = requestOf("a", "chess", {}, { passages: 2 });
    const target = await run([request]);
    const [nearest, second] = doneOf(target, "a").retrieved!;
    expect(nearest.document).toBe(one.retrieved![0].document);
    expect(second.similarity).toBeLessThan(nearest.similarity);
    const kindOf = ({ document }: typeof nearest) => document.replace("t0 ", "");
    const { prefixIds, separatorIds } = request.retrieval!;
    const ids = [nearest, second].flatMap((passage) => [...documentIds("t0", kindOf(passage)), ...separatorIds]);
    const same = await run([byHand(request, [...prefixIds, ...ids], request.promptIds.length - 1)]);
    expect(target.tokensOf("a")).toEqual(same.tokensOf("a"));
  });

  test.each([0, 10, 40])("takes passages of %i tokens at most, cut", async (tokens) => {
    const request = requestOf("a", "sql", {}, { tokens });
    const target = await run([request]);
    const { retrieved, promptTokens } = doneOf(target, "a");
    const { prefixIds, separatorIds } = request.retrieval!;
    const room = Math.max(0, tokens - prefixIds.length - separatorIds.length);
    expect(retrieved!.map((one) => one.tokens)).toEqual(room > 0 ? [room] : []);
    expect(promptTokens).toBe(request.promptIds.length + (room > 0 ? tokens : 0));
    const text = Buffer.from(`${documents[1][1]} of t0`);
    for (const { start, end } of retrieved!) {
      expect(encode(text.subarray(start, end).toString())).toEqual(documentIds("t0", "sql").slice(0, room));
    }
    expect(target.tokensOf("a")).toHaveLength(10);
  });

  test("and its answer never exceed the context", async () => {
    const { contextTokens } = artifacts.model.config;
    const request = requestOf("a", "sql", {}, { tokens: 4096 });
    const { promptIds } = request;
    const maxTokens = contextTokens - promptIds.length - 20;
    const target = await run([{ ...request, maxTokens }]);
    expect(doneOf(target, "a")).toMatchObject({ completionTokens: maxTokens });
    expect(doneOf(target, "a").promptTokens - promptIds.length).toBe(20);
  });
});

test("frames are the same alone, among others, without room, resumed, and for each choice", async () => {
  const forked = requestOf("fork", "chess");
  const forks = Array.from({ length: 3 }, (_, i) => ({
    ...{ ...forked, id: `fork ${i}` },
    sampling: { ...forked.sampling, temperature: 1, seed: i },
  }));
  const others = (["river", "sql", "chess"] as const).flatMap((kind) => [
    requestOf(`${kind} 0`, kind),
    requestOf(`${kind} 1`, kind, { tenant: "t1", sampling: { temperature: 0.8, seed: 3 } }, { passages: 2 }),
    requestOf(`${kind} 2`, kind, { sampling: { logprobs: null } }, { at: 0, prefixIds: [] }),
  ]);
  const work = [...others, ...forks];
  const together = await run(work);
  const crowded = await run(work, harness({ limits: { maxSequences: 2 }, prefixBytes: 0 }));
  for (const request of work) {
    const alone = await run([request]);
    expect(alone.lastFrameOf(request.id)).toMatchObject({ type: "done", completionTokens: 10 });
    for (const other of [together, crowded]) {
      expect(framesOf(other, request.id)).toEqual(framesOf(alone, request.id));
      expect(doneOf(other, request.id).retrieved).toEqual(doneOf(alone, request.id).retrieved);
    }
    for (const { document } of doneOf(alone, request.id).retrieved!) expect(document).toMatch(request.tenant);
    const tokens = alone.tokensOf(request.id);
    const finished = await run([{ ...request, continuedIds: tokens }]);
    const { retrieved, promptTokens } = doneOf(alone, request.id);
    expect(finished.framesOf(request.id)).toMatchObject([{ type: "done", retrieved, promptTokens }]);
    for (const kept of [1, 6]) {
      const resumed = await run([{ ...request, continuedIds: tokens.slice(0, kept) }]);
      expect(framesOf(resumed, request.id)).toEqual(framesOf(alone, request.id).slice(kept));
    }
  }
  expect(together.engine.stats).toMatchObject({ running: 0, waiting: 0, memories: { pinnedBytes: 0 } });
});

test("what cannot be served is refused by name, and a deletion or cancellation before the passages are known ends it", async () => {
  const long = requestOf("long", "river", { promptIds: encode(prose(90, kinds.river)) });
  const bad: [SequenceRequest, string][] = [
    [requestOf("none", "sql", { memories: undefined }), "names none"],
    [requestOf("scored", "sql", { promptLogprobs: true }), "not scored"],
    [requestOf("place", "sql", {}, { at: 4000 }), "before token 4000"],
    [requestOf("query", "sql", {}, { query: [5, 5] }), "[5, 5)"],
    [requestOf("ids", "sql", {}, { separatorIds: [999_999] }), "999999"],
  ];
  const target = await run(bad.map(([request]) => request));
  for (const [{ id }, message] of bad) {
    expect(target.framesOf(id)).toMatchObject([
      { type: "error", kind: "invalid_request", message: expect.stringContaining(message) },
    ]);
  }
  await target.engine.submit(null, [long]);
  await target.engine.step();
  target.engine.dropMemory("t0", hash);
  await target.finish();
  expect(target.framesOf("long")).toMatchObject([{ type: "error", kind: "memory_deleted" }]);
  await target.engine.submit(null, [{ ...long, id: "left" }]);
  await target.engine.step();
  target.engine.cancel(["left"]);
  await target.finish();
  expect(target.framesOf("left")).toMatchObject([{ type: "error", kind: "cancelled" }]);
  expect(target.engine.stats).toMatchObject({ running: 0, kvUsedBytes: 0, memories: { pinnedBytes: 0 } });
});
