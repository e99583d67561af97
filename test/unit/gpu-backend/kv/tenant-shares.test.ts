import fc from "fast-check";
import { expect, test } from "vitest";
import { TenantShares } from "../../../../gpu-backend/kv/tenant-shares.ts";

const seed = 1815;

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
        expect(shares.tenants).toBe([...held.values()].filter(({ size: count }) => count > 0).length);
        expect(shares.bytes).toBe([...held.keys()].reduce((sum, one) => sum + bytesOf(one), 0));
        for (const one of held.keys()) expect(shares.bytesOf(one)).toBe(bytesOf(one));
      }
    }),
    { seed, numRuns: 1000 },
  );
});
