import { describe, expect, test } from "vitest";
import { CellFull } from "../../edge/batching/batch-client.ts";
import { type CellNamespace, cellsOf, createCells } from "../../edge/cells/cells.ts";
import { refusalResponse } from "../../edge/cells/refusal.ts";
import type { CellRequest } from "../../edge/completions/cell-request.ts";
import { regions } from "../../edge/platform/region.ts";
import { ServiceError } from "../../shared/errors.ts";

const { signal } = new AbortController();
const requestOf = (tenant: string) => ({ admitted: { tenant } }) as CellRequest;

/** Cells that answer by a script, and who was asked. */
function scripted(answer: (name: string, call: number) => Response | Promise<Response>) {
  const asked: string[] = [];
  const namespace: CellNamespace = (name) => ({ fetch: async () => answer(name, asked.push(name)) });
  return { asked, cells: createCells(namespace, 4) };
}

const full = () => refusalResponse(new CellFull("no room"));

describe("cells of a region", () => {
  test("are preferred evenly, each tenant's always in the same order, and only the caller's region is asked", () => {
    const preferred = new Map<string, number>();
    for (let i = 0; i < 4000; i++) {
      const [first] = cellsOf(`tenant-${i}`, "weur", 4);
      preferred.set(first, (preferred.get(first) ?? 0) + 1);
    }
    expect([...preferred.keys()].sort()).toEqual([0, 1, 2, 3].map((i) => `cell-weur-${i}`));
    for (const tenants of preferred.values()) expect(Math.abs(tenants - 1000)).toBeLessThan(150);
    for (const region of regions) {
      const names = cellsOf("a", region, 3);
      expect(names.every((name) => name.startsWith(`cell-${region}-`))).toBe(true);
      expect(cellsOf("a", region, 3)).toEqual(names);
    }
  });

  test("a full cell passes its request to the tenant's next one, once", async () => {
    const order = cellsOf("a", "oc", 4);
    const spilled = scripted((_, call) => (call === 1 ? full() : new Response("yes")));
    expect(await (await spilled.cells(requestOf("a"), "oc", signal)).text()).toBe("yes");
    expect(spilled.asked).toEqual(order.slice(0, 2));
    const refused = scripted(full);
    await expect(refused.cells(requestOf("a"), "oc", signal)).rejects.toThrow(CellFull);
    expect(refused.asked).toEqual(order.slice(0, 2));
    const overloaded = scripted((_, call) =>
      call === 1 ? Promise.reject(Object.assign(new Error("queue"), { overloaded: true })) : new Response("yes"),
    );
    expect((await overloaded.cells(requestOf("a"), "oc", signal)).status).toBe(200);
  });

  test("any other refusal is the request's own", async () => {
    const refusal = new ServiceError("overloaded", "backends are busy", { retryAfterSeconds: 3 });
    const { cells, asked } = scripted(() => refusalResponse(refusal));
    await expect(cells(requestOf("a"), "oc", signal)).rejects.toEqual(refusal);
    expect(asked).toHaveLength(1);
  });
});
