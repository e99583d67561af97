import { afterAll, expect, test } from "vitest";
import { Grammars } from "../../../../gpu-backend/engine/grammars.ts";
import { sharedPieces } from "../../../../gpu-backend/engine/vocabulary.ts";
import { schemaForm } from "../../../../shared/contracts/json-schema.ts";
import { createEngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";

const { vocabularySize, stopIds } = fakeConfig;
/** The printable characters of ASCII, one a token. */
const textPieceOf = (id: number) => (stopIds.includes(id) || id > 94 ? new Uint8Array(0) : Uint8Array.of(32 + id));
const textOf = (ids: readonly number[]) => String.fromCharCode(...ids.map((id) => 32 + id));
const grammars = new Grammars(
  () => ({ ...sharedPieces(vocabularySize, textPieceOf), stopIds }),
  () => performance.now(),
);
afterAll(() => grammars.close());

const text_form = schemaForm({
  type: "object",
  properties: {
    n: { type: "integer", minimum: 0, maximum: 99 },
    list: { type: "array", items: { enum: ["x", true] }, maxItems: 3 },
  },
  required: ["n", "list"],
}) as string;

/** Runs an engine until all sequences have ended. Between steps the grammars that rows wait for get time. */
async function run(requests: ReturnType<typeof sequenceRequest>[], own: Grammars | undefined = grammars) {
  const harness = createEngineHarness({ runner: createFakeRunner({ topCount: 4 }), textPieceOf, grammars: own });
  await harness.engine.submit(null, requests);
  const open = () => requests.some(({ id }) => !["done", "error"].includes(harness.lastFrameOf(id)?.type ?? ""));
  while (open()) {
    if (harness.engine.busy) await harness.engine.step();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return harness;
}

const held = (id: string, rest: Parameters<typeof sequenceRequest>[2] = {}) =>
  sequenceRequest(id, [1, 2, 3], {
    ...{ maxTokens: 60, ...rest },
    sampling: { temperature: 1, seed: id.charCodeAt(0), text_form, ...rest.sampling },
  });
const free = (id: string) => sequenceRequest(id, [4, 5], { maxTokens: 40, sampling: { temperature: 1, seed: 9 } });

test("a sequence that is held to a schema ends with its JSON and is the same alone, among others, and where another engine continues it", async () => {
  const ids = ["a", "b", "c"];
  const together = await run([...ids.map((id) => held(id)), free("free")]);
  for (const id of ids) {
    const alone = await run([held(id)]);
    expect(alone.tokenFramesOf(id)).toEqual(together.tokenFramesOf(id));
    expect(alone.lastFrameOf(id)).toMatchObject({ type: "done", finishReason: "stop" });
    const tokens = alone.tokensOf(id);
    expect(JSON.parse(textOf(tokens))).toEqual({ n: expect.any(Number), list: expect.any(Array) });
    const begun = Math.floor(tokens.length / 2);
    const continued = await run([held(id, { continuedIds: tokens.slice(0, begun) })]);
    expect(continued.tokensOf(id)).toEqual(tokens.slice(begun));
    const cut = await run([held(id, { maxTokens: begun })]);
    expect(cut.tokensOf(id)).toEqual(tokens.slice(0, begun));
    expect(cut.lastFrameOf(id)).toMatchObject({ finishReason: "length" });
  }
  expect(together.tokensOf("free")).toEqual((await run([free("free")], undefined)).tokensOf("free"));
});

test("a sequence that is held to a schema reports logprobs of what the schema allows, whatever bias other tokens have", async () => {
  const logit_bias = Array.from({ length: 90 }, (_, id): [number, number] => [id, id % 2 ? 100 : -100]);
  for (const temperature of [0, 0.7]) {
    const { tokenFramesOf, lastFrameOf } = await run([
      held("a", { sampling: { logprobs: 20, logit_bias, temperature } }),
    ]);
    expect(lastFrameOf("a")).toMatchObject({ finishReason: "stop" });
    for (const { tokenId, logprob, alternatives } of tokenFramesOf("a")) {
      const sum = alternatives!.reduce((total, [, one]) => total + Math.exp(one), 0);
      expect(sum).toBeGreaterThan(0.999);
      expect(sum).toBeLessThan(1.001);
      expect(alternatives!.find(([id]) => id === tokenId)?.[1]).toBe(logprob);
      if (temperature === 0) expect(alternatives![0][0]).toBe(tokenId);
    }
  }
});

test("a sequence that is held to a schema has its schema compiled once for all choices of a request, and waits with no more than 16 new ones", async () => {
  const schema = (n: number) => schemaForm({ type: "array", items: { const: `${n} is new` } }) as string;
  const choices = Array.from({ length: 40 }, (_, i) =>
    held(`choice${i}`, { maxTokens: 3, sampling: { text_form: schema(-1) } }),
  );
  const { lastFrameOf } = await run(choices);
  for (const { id } of choices) expect(lastFrameOf(id)).toMatchObject({ type: "done" });
  const many = Array.from({ length: 20 }, (_, i) =>
    held(`new${i}`, { maxTokens: 3, sampling: { text_form: schema(i) } }),
  );
  const { lastFrameOf: lastOf } = await run(many);
  const refused = many.filter(({ id }) => lastOf(id)?.type === "error");
  expect(refused).toHaveLength(4);
  for (const { id } of refused) expect(lastOf(id)).toMatchObject({ kind: "overloaded", message: /16 new schemas/ });
});

test("a sequence that is held to a schema ends in an error that names the fault where it has no grammar", async () => {
  const { lastFrameOf, tokensOf } = await run([held("a", { continuedIds: [10, 10] }), free("free")]);
  expect(lastFrameOf("a")).toMatchObject({ type: "error", kind: "invalid_request", message: /not of the schema/ });
  expect(tokensOf("free")).toHaveLength(40);
});

test.each([0, 1, 2])("a row whose grammar takes long holds up nobody, as the row %d of three", async (place) => {
  const late = Promise.withResolvers<void>();
  const allowed = new Uint32Array(Math.ceil(vocabularySize / 32)).fill(2 ** 32 - 1);
  const slow = {
    async open(_: unknown, changed: (error: null) => void) {
      let advances = 0;
      const row = {
        allowed: allowed as Uint32Array | null,
        advance() {
          // The row decodes among the others for its first two tokens; then its mask is late.
          if (++advances !== 3) return;
          row.allowed = null;
          void late.promise.then(() => {
            row.allowed = allowed;
            changed(null);
          });
        },
        close() {},
      };
      return row;
    },
  } as unknown as Grammars;
  const harness = createEngineHarness({ runner: createFakeRunner(), textPieceOf, grammars: slow });
  const requests = [free("one"), free("two")];
  requests.splice(place, 0, held("slow", { sampling: { text_form: "any" } }));
  await harness.engine.submit(null, requests);
  while (harness.engine.busy) await harness.engine.step();
  expect(harness.tokensOf("slow")).toHaveLength(3);
  const alone = await run([free("one")], undefined);
  for (const id of ["one", "two"]) expect(harness.tokensOf(id)).toEqual(alone.tokensOf("one"));
  late.resolve();
  await late.promise;
  await new Promise((resolve) => setImmediate(resolve));
  expect(harness.engine.busy).toBe(true);
  await harness.engine.step();
  expect(harness.tokensOf("slow").length).toBeGreaterThan(3);
});
