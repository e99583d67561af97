import fc from "fast-check";
import { expect, test } from "vitest";
import { loadText, readLoad } from "../../../shared/contracts/backend-headers.ts";

test("a load is read as it was written", () => {
  const load = fc.record({ sequences: fc.nat(9_999_999), slots: fc.integer({ min: 1, max: 9_999_999 }) });
  fc.assert(fc.property(load, (one) => void expect(readLoad(loadText(one))).toEqual(one))); // a failure prints its seed
});

const headers = [null, undefined, "", "7", "7/0", "7/", "/32", "-1/32", "7/32/1", "7.5/32", "7/32, 8/32", "12345678/1"];
test.each(headers)("%j is no load", (header) => expect(readLoad(header)).toBeNull());
