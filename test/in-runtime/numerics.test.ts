/** A stream that has begun goes on only on a backend of the same numerics, as the headers of both ways tell. */
import { describe, expect, test, vi } from "vitest";
import { type Frame, numericsHeader } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { envelopeOf, ServiceError, statusOf } from "../../shared/errors.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { backendStreams, byteStream, eventsOf, testApp, useNetwork } from "./harness.ts";

useNetwork();

const one = "cpu-fp32-0123456789abcdef";
const another = "cpu-int8-0123456789abcdef";

/** The texts of a stream, and its error's code. */
function textsOf(data: unknown[]): (string | null)[] {
  const events = data.slice(0, -1) as { choices?: { text: string }[]; error?: { code: string | null } }[];
  return events.map(({ choices, error }) => choices?.[0].text ?? error!.code);
}

/** An answer of a backend of `numerics`; null: of a release that tells none. */
function answer(numerics: string | null, frames: Frame[]): Response {
  const headers = { "content-type": "application/x-ndjson", ...(numerics && { [numericsHeader]: numerics }) };
  return new Response(byteStream(frames.map(frameLine)), { headers });
}

const refusal = () => {
  const error = new ServiceError(
    "numerics_mismatch",
    `The batch continues tokens of ${one}, this backend has ${another}.`,
  );
  return Response.json(envelopeOf(error), { status: statusOf(error.kind) });
};

/**
 * Streams through a backend of the numerics `from` that breaks off after one token and is then, at the same address,
 * what `next` makes of it.
 */
async function stream(from: string | null, next: (id: string) => Response) {
  const seen = backendStreams(({ sequences: [{ id, continuedIds }] }) => {
    if (continuedIds.length > 0) return next(id);
    return answer(from, [tokenFrame(id, 0, 98)]);
  });
  const quiet = [vi.spyOn(console, "warn"), vi.spyOn(console, "error")].map((spy) => spy.mockReturnValue());
  const { data } = await eventsOf(await testApp().complete({ prompt: "aaa", stream: true }));
  const told = quiet[0].mock.calls.map(([line]) => JSON.parse(String(line)).event);
  for (const spy of quiet) spy.mockRestore();
  const texts = textsOf(data);
  return { texts, told, asked: seen.headers.map((headers) => headers.get(numericsHeader)) };
}

const rest = (numerics: string | null) => (id: string) =>
  answer(numerics, [tokenFrame(id, 1, 99), { ...doneFrame(id), completionTokens: 2 }]);

describe("an interrupted stream", () => {
  test.each([
    ["of the same numerics", one, one],
    ["that tells none, as releases before did", one, null],
    ["that tells some, where the one before did not", null, one],
  ])("goes on where the next backend is one %s", async (_, from, to) => {
    const { texts, asked } = await stream(from, rest(to));
    expect(texts.join("")).toBe("bc");
    expect(asked).toEqual([null, from]);
  });

  test.each([
    ["refuses it", refusal],
    ["would take it", rest(another)],
  ])("ends in an explicit error, and is counted, where one of other numerics %s", async (_, next) => {
    const { texts, told, asked } = await stream(one, next);
    expect(texts).toEqual(["b", "numerics_mismatch"]);
    expect(asked[0]).toBeNull();
    expect(new Set(asked.slice(1))).toEqual(new Set([one]));
    expect(told.filter((event) => event === "not_resumed")).toHaveLength(1);
  });
});

test("a stream without a token goes anywhere, and asks for no numerics", async () => {
  const seen = backendStreams(({ sequences: [{ id }] }) =>
    seen.batches.length === 1
      ? answer(one, [])
      : answer(another, [tokenFrame(id, 0, 98), { ...doneFrame(id), completionTokens: 1 }]),
  );
  vi.spyOn(console, "warn").mockReturnValue();
  const { data } = await eventsOf(await testApp().complete({ prompt: "aaa", stream: true }));
  vi.restoreAllMocks();
  expect(textsOf(data).join("")).toBe("b");
  expect(seen.headers.map((headers) => headers.get(numericsHeader))).toEqual([null, null]);
});
