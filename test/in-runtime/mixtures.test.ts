/** Mixtures: what the edge asks the backend to mix, and what the answer shows. */
import { describe, expect, test, vi } from "vitest";
import type { DoneFrame, Frame } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { defaultCalibration } from "../../shared/math/evidence.ts";
import { edgeModel } from "../support/edge-model.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { errorOf, eventsOf, expectError, jsonOf } from "./answers.ts";
import { backendAnswers, saying } from "./backend.ts";
import { testApp } from "./harness.ts";
import { reportedByCells } from "./objects.ts";

const completed = (body: object) => jsonOf<CompletionResponse>(testApp().complete(body));

function mixedAnswer(id: string, adapters: number, evidence: object | null): Frame[] {
  const share = 1 / (adapters + 1);
  const mixture = {
    base: share,
    adapters: Array.from({ length: adapters }, (_, j) => ({ hash: String(j).repeat(64), weight: share })),
    evidence,
  } as DoneFrame["mixture"];
  return [tokenFrame(id, 0, 98), { ...doneFrame(id), mixture }];
}

const sentOf = async (body: object) => {
  const seen = backendAnswers(({ id }) => saying(id, "x"));
  await completed(body);
  const [{ centroidId, sequences }] = seen.batches;
  return { centroidId, mixture: sequences[0].mixture, sequences };
};

describe("the default", () => {
  test("sends each sequence what its prompt may be a mixture of, choices of a prompt alike", async () => {
    const { mixture, sequences, centroidId } = await sentOf({ prompt: "aab", n: 2, max_tokens: 1 });
    expect(centroidId).toBe("c0");
    const { temper, floor } = defaultCalibration;
    expect(mixture).toMatchObject({ evidence: { tokens: 3, temper, floor } });
    // c2 is off, so its prior goes to the base.
    expect(mixture!.base).toBeGreaterThan(defaultCalibration.base);
    expect(mixture!.adapters.reduce((sum, { weight }) => sum + weight, mixture!.base)).toBeCloseTo(1, 12);
    expect(mixture?.adapters.map((one) => "centroidId" in one && one.centroidId)).toEqual(["c0", "c1"]);
    expect(mixture!.adapters[0].weight).toBeGreaterThan(mixture!.adapters[1].weight);
    expect(sequences[1].mixture).toEqual(mixture);
  });

  test("uses the next centroid that is on if the nearest one is off, and still names the nearest one", async () => {
    backendAnswers(({ id }) => mixedAnswer(id, 2, { nats: 0.1, tokens: 2 }));
    const { chameleon } = (await completed({ prompt: "zzzb", chameleon: {} })).choices[0];
    expect(chameleon).toMatchObject({ centroid: "c2", mode: "evidence", held_out_gain: null });
    expect(chameleon?.experts?.map(({ id }) => id)).toEqual(["base", "c1", "c0"]);
    expect((await sentOf({ prompt: "zzzb" })).centroidId).toBe("c1");
  });

  test("reports experts with weights, and the evidence, streamed or not", async () => {
    const evidence = { nats: 0.25, tokens: 2 };
    backendAnswers(({ id }) => mixedAnswer(id, 2, evidence));
    const body = { prompt: "aaa", max_tokens: 1, chameleon: {} };
    const block = {
      mode: "evidence",
      experts: [
        { id: "base", weight: 0.3333 },
        { id: "c0", weight: 0.3333, hash: "0".repeat(64) },
        { id: "c1", weight: 0.3333, hash: "1".repeat(64) },
      ],
      evidence,
      held_out_gain: { nats: 0.1 },
    };
    expect((await completed(body)).choices[0].chameleon).toMatchObject(block);
    const data = await eventsOf(testApp().complete({ ...body, stream: true }));
    expect(data.at(-2)).toMatchObject({ choices: [{ chameleon: block }] });
  });

  test("counts its use under the nearest centroid that is on", async () => {
    backendAnswers(({ id }) => mixedAnswer(id, 2, { nats: 0, tokens: 2 }));
    const reported = await reportedByCells();
    await completed({ prompt: "zzzb", max_tokens: 1 });
    await vi.waitFor(() => expect(reported()).toMatchObject([["local", { model: "gpt2:auto", centroid: "c1" }]]));
  });
});

test("evidence_tokens lets only the first tokens of a prompt assign and weigh", async () => {
  const whole = await sentOf({ prompt: "abbbbb" });
  expect([whole.centroidId, whole.mixture?.evidence?.tokens]).toEqual(["c1", 6]);
  const first = await sentOf({ prompt: "abbbbb", chameleon: { evidence_tokens: 1 } });
  const alone = await sentOf({ prompt: "a" });
  expect(first.centroidId).toBe("c0");
  expect(first.mixture).toEqual(alone.mixture);
  const beyond = await sentOf({ prompt: "abbbbb", chameleon: { evidence_tokens: edgeModel.contextTokens } });
  expect(beyond.mixture).toEqual(whole.mixture);
  const nearest = await sentOf({ prompt: "ab", chameleon: { adapter: "nearest", evidence_tokens: 1 } });
  expect(nearest.centroidId).toBe("c0");
});

describe("a list of experts", () => {
  const listed = (...adapter: object[]) => ({ prompt: "aab", chameleon: { adapter } });

  test("is weighed by evidence, or fixed where each has a weight", async () => {
    const weighed = await sentOf(listed({ id: "base" }, { id: "c1" }));
    expect(weighed).toMatchObject({ centroidId: "c1", mixture: { adapters: [{ centroidId: "c1" }] } });
    expect(weighed.mixture?.evidence?.tokens).toBe(3);
    expect(weighed.sequences[0]).not.toHaveProperty("assignment");
    const fixed = await sentOf(listed({ id: "c1", weight: 1 }, { id: "c0", weight: 3 }, { id: "base", weight: 0 }));
    expect(fixed.mixture).toEqual({
      base: 0,
      adapters: [
        { centroidId: "c0", weight: 0.75 },
        { centroidId: "c1", weight: 0.25 },
      ],
    });
  });

  test("is reported as it was served", async () => {
    backendAnswers(({ id }) => mixedAnswer(id, 1, null));
    const { choices } = await completed(listed({ id: "base", weight: 2 }, { id: "c1", weight: 2 }));
    const { chameleon } = choices[0];
    expect(chameleon).toMatchObject({ centroid: "c1", mode: "fixed", evidence: null });
    expect(chameleon?.experts).toEqual([
      { id: "base", weight: 0.5 },
      { id: "c1", weight: 0.5, hash: "0".repeat(64) },
    ]);
  });

  test.each<[string, unknown, ...string[]]>([
    ["an empty list", [], "empty"],
    ["too many", Array.from({ length: 6 }, (_, k) => ({ id: `c${k}` })), "6", String(limits.mixtureAdapters)],
    ["too many without the base", ["a", "b", "c", "d", "e"].map((id) => ({ id })), "5", String(limits.mixtureAdapters)],
    ["an entry that is no object", ["c1"], "adapter[0]", "c1"],
    ["an entry without an id", [{ weight: 1 }], "adapter[0].id", "undefined"],
    ["an id that is no string", [{ id: 5 }], "adapter[0].id", "5"],
    ["an id that is too long", [{ id: "x".repeat(65) }], "65", String(limits.adapterCharacters)],
    ["an unknown id", [{ id: "base" }, { id: "nobodys" }], "adapter[1].id", "nobodys"],
    ["an id twice", [{ id: "c1" }, { id: "c1" }], "adapter[1].id", "c1"],
    ["weights for some", [{ id: "c1", weight: 1 }, { id: "c0" }], "adapter[1].weight", "null"],
    ["a negative weight", [{ id: "c1", weight: -0.5 }], "adapter[0].weight", "-0.5"],
    ["a weight that is no number", [{ id: "c1", weight: "1" }], "adapter[0].weight", '"1"'],
    ["a weight beyond the limit", [{ id: "c1", weight: 1e300 }], String(limits.expertWeight)],
    ["weights of nothing", [{ id: "c1", weight: 0 }], "add up to 0"],
    ["a number", 5, "adapter", "5"],
    ["an object", {}, "adapter", "an object"],
    ["no text", "", "0 characters"],
  ])("refused: %s", async (_, adapter, ...mentioned) => {
    const refused = testApp().complete({ prompt: "a", chameleon: { adapter } });
    await expectError(refused, { status: 400, param: "chameleon.adapter", mentions: mentioned });
  });
});

test.each<[unknown, ...string[]]>([
  [0, "0", "1"],
  [1.5, "1.5", "integer"],
  [edgeModel.contextTokens + 1, String(edgeModel.contextTokens + 1), String(edgeModel.contextTokens)],
  ["8", '"8"'],
])("evidence_tokens %s is refused", async (evidence_tokens, ...mentioned) => {
  const refused = testApp().complete({ prompt: "a", chameleon: { evidence_tokens } });
  await expectError(refused, { status: 400, param: "chameleon.evidence_tokens", mentions: mentioned });
});

test.each([
  ["adaptor", "its fields are adapter, compare, sources, retrieve, evidence_tokens"],
  ["x".repeat(5000), "its fields are adapter"],
])("an unknown field of `chameleon` is refused with a list of the known ones: %s", async (name, advice) => {
  for (const path of ["/v1/completions", "/v1/chat/completions"]) {
    const body = { prompt: "a", messages: [{ role: "user", content: "a" }], chameleon: { [name]: "off" } };
    const error = await errorOf(testApp().post(path, body));
    const param = `chameleon.${name.slice(0, limits.adapterCharacters)}`;
    expect(error, error.message).toMatchObject({ status: 400, param, message: expect.stringContaining(advice) });
    expect(error.message.length).toBeLessThan(300);
  }
});
