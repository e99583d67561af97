import { describe, expect, test } from "vitest";
import { MarkReader, mark } from "../../../edge/completions/marks.ts";
import { StreamCursor } from "../../../edge/completions/stream-cursor.ts";
import { doneFrame, tokenFrame } from "../../support/frames.ts";
import { seededRandom } from "../../support/steps.ts";

const utf8 = new TextEncoder();
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

test("a cursor that catches up does not go back behind what the client has of any choice", () => {
  const [client, cell] = [new StreamCursor(2), new StreamCursor(2)];
  for (let i = 0; i < 5; i++) for (const choice of [0, 1]) client.add(choice, tokenFrame("a", i, 60 + i));
  for (let i = 0; i < 6; i++) cell.add(0, tokenFrame("a", i, 60 + i));
  cell.add(1, tokenFrame("a", 0, 60));
  const position = StreamCursor.parse(cell.farthest(client).text);
  expect([position.isBeyond(client, 0), client.isBeyond(position, 1), position.isBeyond(client, 1)]).toEqual([
    true,
    false,
    false,
  ]);
});

describe("a stream with marks", () => {
  test("is parted at them, however it is cut into chunks", () => {
    const writes: [string, string][] = [
      ["data: é\n\n", "1:a"],
      ["", "2:b"],
      [": hb\n\n", ""],
      ["x".repeat(500), "3:c,4:d"],
      ["data: [DONE]\n\n", "end"],
    ];
    const bytes = utf8.encode(writes.map(([events, name]) => events + mark(name)).join(""));
    const seed = Date.now() >>> 0;
    const next = seededRandom(seed);
    for (let run = 0; run < 200; run++) {
      const reader = new MarkReader();
      const parts: [string, string][] = [];
      for (let at = 0; at < bytes.length; ) {
        const end = at + 1 + Math.floor(next() * (run % 40));
        for (const part of reader.push(bytes.slice(at, end))) parts.push([text(part.bytes), part.mark]);
        at = end;
      }
      expect(parts, `seed ${seed}`).toEqual(writes);
    }
  });

  test("gives nothing of a write whose mark has not come", () => {
    const reader = new MarkReader();
    expect(reader.push(utf8.encode("data: 1\n\n"))).toEqual([]);
    expect(reader.push(utf8.encode("data: 2\n\n\0"))).toEqual([]);
    expect(reader.push(utf8.encode("1:a")).length).toBe(0);
    expect(reader.push(utf8.encode("\nmore")).map(({ bytes }) => text(bytes))).toEqual(["data: 1\n\ndata: 2\n\n"]);
  });
});

describe("a cursor", () => {
  const cursorAfter = (...tokens: number[]) => {
    const cursor = new StreamCursor(2);
    for (const [i, token] of tokens.entries()) cursor.add(1, tokenFrame("a-1", i, token));
    return cursor;
  };

  test("is the same as text, and tells what comes after it from what came before", () => {
    const sent = StreamCursor.parse(cursorAfter(5, 6).text);
    expect(sent.text).toBe(cursorAfter(5, 6).text);
    expect([cursorAfter(5), cursorAfter(5, 6), cursorAfter(5, 6, 7)].map((cursor) => cursor.isBeyond(sent, 1))).toEqual(
      [false, false, true],
    );
    const first = cursorAfter();
    first.add(0, doneFrame("a-0"));
    expect(first.isBeyond(sent, 0)).toBe(true);
  });

  test("differs where other tokens came, or the same in another order", () => {
    const sent = cursorAfter(5, 6);
    expect(cursorAfter(5, 6).differsFrom(sent, 1)).toBe(false);
    for (const other of [cursorAfter(5, 7), cursorAfter(6, 5)]) expect(other.differsFrom(sent, 1)).toBe(true);
    // Not comparable yet.
    expect(cursorAfter(7).differsFrom(sent, 1)).toBe(false);
  });

  test.each(["", "1", "1:", "a:b", "1:a,"])("is not %j", (wrong) => {
    expect(() => StreamCursor.parse(wrong)).toThrow("no cursor");
  });
});
