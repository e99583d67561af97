/** The page's address: what the page writes there is read again, and what others write there is not trusted. */
import { expect, test } from "vitest";
import { hashOf, readShared } from "../../../../edge/page/share.ts";

test.each([
  { tab: "write", text: "a & b = #%\n日本", seed: 0 },
  { tab: "chat", text: null, seed: null },
])("an address with $tab, $text and $seed is read as it was written", (shared) => {
  expect(readShared(hashOf(shared))).toEqual(shared);
});

test.each(["", "#", "#main", "#seed=-1", "#seed=2147483648", "#seed=1e3", "#text="])("%s says nothing", (hash) => {
  expect(readShared(hash)).toEqual({ tab: "", text: null, seed: null });
});

test("a text too long for an address is left out of it, and a too long text in an address is cut", () => {
  expect(readShared(hashOf({ tab: "score", text: "x".repeat(2001), seed: 7 }))).toEqual({
    ...{ tab: "score", text: null, seed: 7 },
  });
  expect(readShared(`#tab=score&text=${"x".repeat(9000)}`).text).toHaveLength(2000);
});
