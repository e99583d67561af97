import fc from "fast-check";
import { expect, test } from "vitest";
import { TenantShares } from "../../../../gpu-backend/kv/tenant-shares.ts";

const seed = 1815;

test("one tenant may hold everything, and gives up its oldest entries to another until both have their share", () => {
  const shares = new TenantShares(40);
  for (const key of ["a", "b", "c", "d"]) shares.add("loud", key, 10);
  expect(shares.evict()).toEqual([]);
  shares.touch("loud", "a");
  shares.add("quiet", "e", 10);
  expect(shares.evict()).toEqual(["b"]);
  shares.add("quiet", "f", 10);
  expect(shares.evict()).toEqual(["c"]);
  shares.add("loud", "g", 10);
  expect(shares.evict()).toEqual(["d"]);
  expect([shares.bytesOf("loud"), shares.bytesOf("quiet"), shares.tenants]).toEqual([20, 20, 2]);
});

test("an entry larger than the bound is dropped at once, and costs nobody within its share anything", () => {
  const shares = new TenantShares(40);
  shares.add("quiet", "a", 20);
  shares.add("loud", "b", 41);
  expect(shares.evict()).toEqual(["b"]);
  expect([shares.bytes, shares.tenants]).toEqual([20, 1]);
});

test("any use keeps the bound, and takes nothing from a tenant within its share", () => {
  const operation = fc.record({
    kind: fc.constantFrom("add", "add", "add", "touch", "remove"),
    tenant: fc.constantFrom("a", "b", "c", "d"),
    pick: fc.nat(),
    bytes: fc.integer({ min: 1, max: 30 }),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 100 }), fc.integer({ min: 0, max: 150 }), (operations, bound) => {
      const shares = new TenantShares(bound);
      /** Of each tenant bytes by key, oldest first. */
      const held = new Map<string, Map<string, number>>();
      const bytesOf = (tenant: string) =>
        [...(held.get(tenant)?.values() ?? [])].reduce((sum, bytes) => sum + bytes, 0);
      let next = 0;
      for (const { kind, tenant, pick, bytes } of operations) {
        const own = held.get(tenant) ?? new Map<string, number>();
        const key = kind === "add" ? `k${next++}` : [...own.keys()][pick % own.size];
        if (key === undefined) continue;
        const size = own.get(key) ?? bytes;
        if (kind === "add") shares.add(tenant, key, size);
        else if (kind === "touch") shares.touch(tenant, key);
        else shares.remove(tenant, key);
        own.delete(key);
        if (kind !== "remove") own.set(key, size);
        held.set(tenant, own);
        for (const dropped of shares.evict()) {
          const [victim, entries] = [...held].find(([, one]) => one.has(dropped))!;
          const holders = [...held.values()].filter(({ size: count }) => count > 0).length;
          expect(bytesOf(victim)).toBeGreaterThan(bound / holders);
          expect(dropped).toBe([...entries.keys()][0]);
          entries.delete(dropped);
        }
        expect(shares.bytes).toBeLessThanOrEqual(bound);
        expect(shares.bytes).toBe([...held.keys()].reduce((sum, one) => sum + bytesOf(one), 0));
        for (const one of held.keys()) expect(shares.bytesOf(one)).toBe(bytesOf(one));
      }
    }),
    { seed, numRuns: 1000 },
  );
});
