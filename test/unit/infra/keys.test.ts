/** Values of the keys command line. */
import { expect, test } from "vitest";
import { aliases, duration, limit, when } from "../../../infra/keys/options.ts";

const hour = 3_600_000;

test("values of the command line are read, or refused with what they should be", () => {
  expect([limit("12"), limit("none"), limit("plan")]).toEqual([12, null, "plan"]);
  expect(() => limit("-1")).toThrow(/whole number/);
  expect([duration("30m"), duration("24h"), duration("7d")]).toEqual([hour / 2, 24 * hour, 168 * hour]);
  expect(() => duration("24")).toThrow(/30m/);
  expect(when("2027-01-31").toISOString()).toBe("2027-01-31T00:00:00.000Z");
  const beforeMs = Date.now();
  const inAnHourMs = when("1h").getTime() - hour;
  expect([beforeMs <= inAnHourMs, inAnHourMs <= Date.now()]).toEqual([true, true]);
  for (const text of ["tomorrow", "2027-99-99", "5"]) expect(() => when(text)).toThrow(/date/);
  expect(aliases("b=gpt2:b", { a: "gpt2" })).toEqual({ a: "gpt2", b: "gpt2:b" });
  for (const text of ["gpt-4o", "=gpt2", "gpt-4o=", "a=b=c"])
    expect(() => aliases(text, undefined)).toThrow(/gpt-4o-mini=/);
});
