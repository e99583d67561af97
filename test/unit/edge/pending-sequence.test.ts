import { expect, test } from "vitest";
import { PendingSequence } from "../../../edge/dispatch/pending-sequence.ts";
import type { Frame, SequenceRequest } from "../../../shared/contracts/inference.ts";
import { doneFrame, sequenceRequest, tokenFrame } from "../../support/frames.ts";

function pending(sequence: SequenceRequest): PendingSequence {
  const model = { manifestHash: "a".repeat(64), centroidId: null };
  const receiver = { accepted: () => undefined, receive: () => undefined };
  return new PendingSequence(sequence, { model, receiver, arrivedMs: 0, sharing: "" });
}

const promptFrame = (id: string): Frame => ({ type: "prompt", id, logprobs: [null], alternatives: [[]] });

test("the client gets frames in order under its own id; any other frame is an error", () => {
  const one = pending({ ...sequenceRequest("a"), continuedIds: [1, 2] });
  expect(() => one.deliver(promptFrame("a"))).toThrow(/prompt/);
  expect(() => one.deliver(tokenFrame("a", 1, 9))).toThrow(/index 1, 2 is next/);
  expect(one.deliver(tokenFrame("a", 2, 9))).toEqual(tokenFrame("a", 2, 9));
  // A frame is refused if its token repeats an earlier one or comes too early.
  expect(() => one.deliver(tokenFrame("a_1", 2, 9))).toThrow(/index 2, 3 is next/);
  expect(() => one.deliver(tokenFrame("a_1", 4, 9))).toThrow(/index 4, 3 is next/);
  expect(one.deliver(tokenFrame("a_1", 3, 10))).toEqual(tokenFrame("a", 3, 10));
  const done = { ...doneFrame("a_1"), completionTokens: 4 };
  expect(one.deliver(done)).toEqual({ ...done, id: "a" });
});

test("a done frame that reused more tokens than the prompt has is refused", () => {
  const deliver = (reusedTokens: number) => () =>
    pending(sequenceRequest("a")).deliver({ ...doneFrame("a"), completionTokens: 0, reusedTokens });
  expect(deliver(3)).not.toThrow();
  for (const reused of [4, -1]) expect(deliver(reused)).toThrow(new RegExp(`${reused} .* 3`));
});
