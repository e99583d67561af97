import { expect, test } from "vitest";
import { Delivery } from "../../../edge/backend/delivery.ts";
import type { Frame } from "../../../shared/contracts/inference.ts";
import { doneFrame, sequenceRequest, tokenFrame } from "../../support/frames.ts";

const promptFrame = (id: string): Frame => ({ type: "prompt", id, logprobs: [null], alternatives: [[]] });

test("asks for all at first, then for what is left, under a new id", () => {
  const mixture = { base: 0.5, adapters: [{ centroidId: "c1", weight: 0.5 }] };
  const sequence = { ...sequenceRequest("a"), promptLogprobs: true, mixture };
  const delivery = new Delivery(sequence);
  expect(delivery.nextRequest(0)).toEqual(sequence);
  delivery.deliver(promptFrame("a"));
  delivery.deliver(tokenFrame("a", 0, 7));
  delivery.deliver(tokenFrame("a", 1, 8));
  const rest = { ...sequence, promptLogprobs: false, continuedIds: [7, 8] };
  expect(delivery.nextRequest(0)).toEqual({ ...rest, id: "a_1" });
  expect(delivery.nextRequest(0)).toEqual({ ...rest, id: "a_2" });
  expect(delivery.attempts).toBe(3);
});

test("remembers the numerics that its tokens were computed with, as far as backends tell them", () => {
  const delivery = new Delivery({ ...sequenceRequest("a"), promptLogprobs: true });
  delivery.deliver(promptFrame("a"), "one");
  expect(delivery.numerics).toBeNull();
  delivery.deliver(tokenFrame("a", 0, 7), null);
  expect(delivery.numerics).toBeNull();
  delivery.deliver(tokenFrame("a", 1, 8), "one");
  delivery.deliver(tokenFrame("a", 2, 9), null);
  expect(delivery.numerics).toBe("one");
});

test("gives the client one series under its own id, which no frame may break", () => {
  const delivery = new Delivery({ ...sequenceRequest("a"), continuedIds: [1, 2] });
  expect(() => delivery.deliver(promptFrame("a"))).toThrow(/prompt/);
  expect(() => delivery.deliver(tokenFrame("a", 1, 9))).toThrow(/index 1, 2 is next/);
  expect(delivery.deliver(tokenFrame("a", 2, 9))).toEqual(tokenFrame("a", 2, 9));
  // What a backend repeats, or skips, is no token of this series.
  expect(() => delivery.deliver(tokenFrame("a_1", 2, 9))).toThrow(/index 2, 3 is next/);
  expect(() => delivery.deliver(tokenFrame("a_1", 4, 9))).toThrow(/index 4, 3 is next/);
  expect(delivery.deliver(tokenFrame("a_1", 3, 10))).toEqual(tokenFrame("a", 3, 10));
  const done = { ...doneFrame("a_1"), completionTokens: 4 };
  expect(delivery.deliver(done)).toEqual({ ...done, id: "a" });
});

test("takes no token beyond the most that were asked for", () => {
  const delivery = new Delivery({ ...sequenceRequest("a"), maxTokens: 2 });
  for (const index of [0, 1]) delivery.deliver(tokenFrame("a", index, 7));
  expect(() => delivery.deliver(tokenFrame("a", 2, 7))).toThrow(/index 2.* 2/);
});

test.each([-1_000_000, -1, 1, 3, 1e9])("takes no done frame that counts %i tokens after 2", (completionTokens) => {
  const delivery = new Delivery(sequenceRequest("a"));
  for (const index of [0, 1]) delivery.deliver(tokenFrame("a", index, 7));
  const message = new RegExp(`${completionTokens} .* 2`);
  expect(() => delivery.deliver({ ...doneFrame("a"), completionTokens })).toThrow(message);
});

test("takes no done frame that reused more of the prompt than there is", () => {
  const deliver = (reusedTokens: number) => () =>
    new Delivery(sequenceRequest("a")).deliver({ ...doneFrame("a"), completionTokens: 0, reusedTokens });
  expect(deliver(3)).not.toThrow();
  for (const reused of [4, -1]) expect(deliver(reused)).toThrow(new RegExp(`${reused} .* 3`));
});

test("has a deadline until its first token, and passes on what is left of it", () => {
  const delivery = new Delivery({ ...sequenceRequest("a"), deadlineMs: 100 });
  expect(delivery.nextRequest(0.5).deadlineMs).toBe(100);
  expect(delivery.nextRequest(30).deadlineMs).toBe(70);
  expect(delivery.nextRequest(130).deadlineMs).toBe(1);
  delivery.deliver(tokenFrame("a", 0, 7));
  expect(delivery.nextRequest(130)).not.toHaveProperty("deadlineMs");
  expect(new Delivery(sequenceRequest("b")).nextRequest(1e9)).not.toHaveProperty("deadlineMs");
});
