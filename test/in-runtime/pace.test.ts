import { expect, test } from "vitest";
import { paceLimits } from "../../edge/tenants/pace.ts";
import { plans } from "../../shared/contracts/tenants.ts";
import { testApp } from "./harness.ts";

test("the API looks at a key's requests at their pace, and at another key's at once", async () => {
  const looked: string[] = [];
  const access = { tenant: "t", keyId: "k", scopes: [], limits: plans.unlimited, origins: [] };
  const keys = { accessOf: async (key: string) => ({ ...access, keyId: String(looked.push(key)) }) };
  const { request } = testApp({ keys, now: () => 0 });
  const ask = (key: string) => request("/v1/nothing", { headers: { authorization: `Bearer ${key}` } });
  const { atOnce } = paceLimits;
  const responses = await Promise.all([...Array.from({ length: atOnce + 9 }, () => ask("many")), ask("one")]);
  expect(responses.map(({ status }) => status)).toEqual(Array(atOnce + 10).fill(404));
  expect(looked.indexOf("one")).toBe(atOnce);
});
