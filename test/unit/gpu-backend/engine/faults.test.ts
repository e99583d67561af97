/** A fault of one sequence ends it with one explicit error. The others continue as if that sequence had never been there. */
import { expect, test } from "vitest";
import type { StepInput, StepOutput, StepRunner } from "../../../../gpu-backend/runtime/step.ts";
import type { Frame } from "../../../../shared/contracts/inference.ts";
import { createEngineHarness, type EngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";

/** A token that marks the sequence whose results are spoilt. */
const marker = 77;
/** Neither the end of text nor the marker is ever sampled. */
const banned = [fakeConfig.stopIds[0], marker].map((id): [number, number] => [id, -100]);
const neverEnds = { temperature: 1, seed: 3, logit_bias: banned };
const prompt = (length: number, salt: number) => Array.from({ length }, (_, i) => (i * 7 + salt * 13) % 70);
const { heads, layers } = fakeConfig;

/** A step's row that holds the marker: its index, its rows of the head, the number of rows, and the step's number from 1. */
interface Marked {
  s: number;
  heads: number[];
  sequences: number;
  step: number;
}

/**
 * A fake runner that lets `spoil` change the output in marked rows. It refuses a past with a number that is not finite, even beyond the
 * rows' lengths: a mask is added to a score and does not replace it, so such a number would spread.
 */
function spoiltRunner(spoil: (output: StepOutput, row: Marked) => void): StepRunner {
  const from = createFakeRunner();
  let step = 0;
  const marked = (input: StepInput, s: number) => {
    const { tokens: T, pastLengths } = input;
    const ids = [...input.tokenIds.subarray(s * T, (s + 1) * T)];
    const first = input.sequences - (input.longPast?.sequences ?? 0);
    const [{ past, pastTokens: P }, row] = s < first ? [input, s] : [input.longPast!, s - first];
    for (let t = 0; t < pastLengths[s]; t++) ids.push(past[0][row * heads * P * 2 + t * 2]);
    return ids.includes(marker);
  };
  return {
    ...from,
    async run(input: StepInput) {
      for (const array of [...input.past, ...(input.longPast?.past ?? [])]) {
        if (!array.every(Number.isFinite)) throw new Error("the past is not finite");
      }
      const output = await from.run(input);
      step++;
      for (let s = 0; s < input.sequences; s++) {
        if (!marked(input, s)) continue;
        const heads = [...input.headRows.keys()].filter((n) => Math.floor(input.headRows[n] / input.tokens) === s);
        spoil(output, { s, heads, sequences: input.sequences, step });
      }
      return output;
    },
  };
}

/** Fills a row's states, and its keys and values from the second layer on, with `value`, as a fault in the first layer would. */
function spoilKeys(output: StepOutput, { s, sequences }: Marked, value = Number.NaN): void {
  const arrays = 2 * layers;
  const perRow = output.present.length / (arrays * sequences);
  for (let i = 2; i < arrays; i++) {
    output.present.fill(value, (i * sequences + s) * perRow, (i * sequences + s + 1) * perRow);
  }
  const perState = output.states.length / sequences;
  output.states.fill(value, s * perState, (s + 1) * perState);
}
const spoilLogits = (output: StepOutput, { heads }: Marked) => {
  for (const n of heads) {
    output.logSumExp[n] = Number.NaN;
    output.topScores.fill(Number.NaN, n * output.topCount, (n + 1) * output.topCount);
    output.scores?.fill(Number.NaN, n * fakeConfig.vocabularySize, (n + 1) * fakeConfig.vocabularySize);
  }
};

/** Other sequences of all kinds: decoding, prefilling in several chunks, waiting for a slot. */
const mates = Array.from({ length: 6 }, (_, i) =>
  sequenceRequest(`mate${i}`, prompt([3, 64, 9, 150, 70, 200][i], i), { maxTokens: 30, sampling: neverEnds }),
);
async function alone(): Promise<Map<string, Frame[]>> {
  const harness = createEngineHarness({ runner: createFakeRunner() });
  await harness.engine.submit("c0", mates);
  await harness.finish();
  return new Map(mates.map(({ id }) => [id, harness.framesOf(id)]));
}

/** The frames but the last one, which depends on time and on the order of arrival. */
const textOf = (frames: readonly Frame[]) => frames.filter(({ type }) => type !== "done");

function expectNothingLeft({ engine }: EngineHarness): void {
  expect(engine.busy).toBe(false);
  expect(engine.stats).toMatchObject({ running: 0, waiting: 0, parked: 0 });
}

test("each pass of a long prefill is reported before the next begins, so that it does not look like a hang", async () => {
  const events: string[] = [];
  const { engine } = createEngineHarness({
    runner: createFakeRunner({ before: async () => void events.push("pass") }),
    limits: { stepTokens: 1000, chunkTokens: 64 },
    progressed: () => events.push("progress"),
  });
  const requests = [200, 64, 100].map((length, i) => sequenceRequest(`${i}`, prompt(length, i)));
  await engine.submit(null, requests);
  await engine.step();
  // The last pass decodes. It is the only pass of its phase, whose end is reported by `emit`, so it reports no progress itself.
  expect(events).toEqual([...Array.from({ length: 3 }, () => ["pass", "progress"]).flat(), "pass"]);
});

test.each<[string, number, (output: StepOutput, row: Marked) => void]>([
  ["in its logits, at its first token", 3, spoilLogits],
  ["in its logits, while it decodes", 3, (output, row) => row.step > 12 && spoilLogits(output, row)],
  ["in its keys and values, in a chunk without logits", 200, spoilKeys],
  ["in its keys and values as infinity", 200, (output, row) => spoilKeys(output, row, Number.POSITIVE_INFINITY)],
])("a row that is not a number ends alone: %s", async (where, length, spoil) => {
  const runner = spoiltRunner(spoil);
  const harness = createEngineHarness({ runner, limits: { maxSequences: 5 } });
  const { engine, framesOf, lastFrameOf, tokensOf } = harness;
  const bad = sequenceRequest("bad", [marker, ...prompt(length, 9)], { maxTokens: 40, sampling: neverEnds });
  await engine.submit("c0", [mates[0], mates[1], bad, ...mates.slice(2)]);
  await harness.finish();
  expect(lastFrameOf("bad")).toMatchObject({ type: "error", kind: "generation_failed", retryAfterSeconds: null });
  expect(framesOf("bad").filter(({ type }) => type === "error")).toHaveLength(1);
  expect(tokensOf("bad").length > 0).toBe(where.includes("decodes"));
  const expected = await alone();
  for (const { id } of mates) expect(textOf(framesOf(id))).toEqual(textOf(expected.get(id)!));
  expectNothingLeft(harness);
});

test("a row that is not a number leaves no block of the step that spoilt it in the prefix cache, and its followers go on", async () => {
  let spoilt = 2;
  const runner = spoiltRunner((output, row) => spoilt-- > 0 && spoilKeys(output, row));
  const harness = createEngineHarness({ runner });
  const { engine, lastFrameOf, tokensOf } = harness;
  const ids = [marker, ...prompt(150, 1)];
  const requests = ["leader", "follower1", "follower2", "follower3"].map((id) =>
    sequenceRequest(id, ids, { maxTokens: 5, sampling: neverEnds }),
  );
  await engine.submit("c0", requests);
  await engine.step();
  expect(lastFrameOf("leader")).toMatchObject({ kind: "generation_failed" });
  expect(engine.stats.prefixes).toMatchObject({ blocks: 0, bytes: 0 });
  await harness.finish();
  expect(lastFrameOf("follower1")).toMatchObject({ kind: "generation_failed" });
  expect(lastFrameOf("follower2")).toMatchObject({ type: "done", reusedTokens: 0 });
  expect(lastFrameOf("follower3")).toMatchObject({ type: "done", reusedTokens: 128 });
  expect(tokensOf("follower3")).toEqual(tokensOf("follower2"));
  expectNothingLeft(harness);
});

test("a row that is not a number while its states are collected for an adapter gives no hidden states", async () => {
  const traced: string[] = [];
  const runner = spoiltRunner(spoilLogits);
  const harness = createEngineHarness({
    runner: {
      ...runner,
      async run(input: StepInput) {
        const output = await runner.run(input);
        return { ...output, hidden: new Float32Array(input.headRows.length * fakeConfig.hiddenSize) };
      },
    },
  });
  const bad = sequenceRequest("bad", [marker, 1, 2], { maxTokens: 0 });
  const good = sequenceRequest("good", [1, 2, 3], { maxTokens: 0 });
  await harness.engine.submit(null, [bad, good], { kind: "hidden", from: [1, 1], take: (id) => traced.push(id) });
  await harness.finish();
  expect(traced).toEqual(["good"]);
  expect(harness.lastFrameOf("bad")).toMatchObject({ kind: "generation_failed" });
  expectNothingLeft(harness);
});

test.each(["textPieceOf", "logits"])("an error in %s ends its sequence alone, and reaches the log", async (what) => {
  const causes: unknown[] = [];
  const fail = () => {
    throw new Error(`${what} failed`);
  };
  const fake = createFakeRunner({ topCount: 4 });
  const harness = createEngineHarness({
    runner: {
      ...fake,
      async run(input: StepInput) {
        const output = await fake.run(input);
        return what === "logits" ? { ...output, scores: null } : output;
      },
    },
    textPieceOf: what === "textPieceOf" ? fail : undefined,
    faulted: ({ cause }) => causes.push(cause),
  });
  await harness.engine.submit(null, [sequenceRequest("good", prompt(9, 1))]);
  const sampling = { temperature: 1, seed: 5, stop: ["#"], logit_bias: neverEnds.logit_bias };
  const rest = { maxTokens: 400, sampling };
  await harness.engine.submit("c0", [
    sequenceRequest("bad", prompt(5, 2), rest),
    sequenceRequest("continued", prompt(5, 2), { ...rest, continuedIds: [1, 2] }),
  ]);
  await harness.finish();
  for (const id of ["bad", "continued"]) {
    const last = harness.lastFrameOf(id);
    expect(last).toMatchObject({ type: "error", kind: "generation_failed" });
    expect(JSON.stringify(last)).not.toContain(what);
  }
  const cause = what === "logits" ? expect.any(Error) : expect.objectContaining({ message: "textPieceOf failed" });
  expect(causes).toEqual([cause, cause]);
  expect(harness.lastFrameOf("good")).toMatchObject({ type: "done" });
  expectNothingLeft(harness);
});

test("a step that cannot run at all is no sequence's fault: it is thrown", async () => {
  const harness = createEngineHarness({
    runner: createFakeRunner({ before: () => Promise.reject(new Error("out of memory")) }),
  });
  await harness.engine.submit(null, [sequenceRequest("a", [1])]);
  await expect(harness.engine.step()).rejects.toThrow("out of memory");
});

test("a batch with an id that is already open is refused whole", async () => {
  const harness = createEngineHarness({ runner: createFakeRunner() });
  await harness.engine.submit("c0", [sequenceRequest("a", [1], { sampling: neverEnds })]);
  const again = harness.engine.submit("c0", [sequenceRequest("b", [1]), sequenceRequest("a", [1])]);
  await expect(again).rejects.toThrow(/a is open/);
  await harness.finish();
  expect(harness.framesOf("b")).toEqual([]);
  expectNothingLeft(harness);
});
