/** What `auto` costs, and what it knows, of a tenant with a thousand adapters or none. The backend is scripted. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, expect, test, vi } from "vitest";
import { AdapterRecords } from "../../edge/tenants/adapter-records.ts";
import type { TenantAdapterStore } from "../../edge/tenants/tenant-adapter-store.ts";
import { createTenantAdapters } from "../../edge/tenants/tenant-adapters.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { jsonOf } from "./answers.ts";
import { backendAnswers, saying } from "./backend.ts";
import { manifestHash, publish } from "./model.ts";
import { useTenant } from "./tenant.ts";

beforeAll(() => publish());

const own = useTenant("many-adapters");
const { app, store, create, remove } = own;

test("with a thousand adapters a prompt reads as many rows, makes as many calls and sends as many bytes as with three", async () => {
  own.backendMakes({});
  for (const [name, text] of Object.entries({ a1: "aaaa", a2: "aaab", a3: "aaabb" })) {
    await create({ documents: [text] }, name);
  }
  const seen = backendAnswers(({ id }) => saying(id, "ok"));
  const answeredBy = async () => {
    const asked = app().complete({ prompt: "aaaaaa", max_tokens: 2, chameleon: {} });
    return (await jsonOf<CompletionResponse>(asked)).choices[0].chameleon!.memories!.map(({ id }) => id);
  };
  /** Costs of one request: rows that the object touched, calls to it, bytes of their results and of the batch. */
  const costs = async () => {
    const calls: string[] = [];
    const results: number[] = [];
    const rows = await runInDurableObject(store(), (object: TenantAdapterStore, { storage }) => {
      const cursors: SqlStorageCursor<Record<string, SqlStorageValue>>[] = [];
      const exec = storage.sql.exec.bind(storage.sql);
      vi.spyOn(storage.sql, "exec").mockImplementation((...given) => {
        cursors.push(exec(...given));
        return cursors.at(-1)!;
      });
      // Calls from outside reach the prototype's methods, not the object's.
      const prototype = Object.getPrototypeOf(object) as Record<string, (...given: unknown[]) => unknown>;
      for (const name of ["list", "find", "nearest"]) {
        const method = prototype[name];
        vi.spyOn(prototype, name).mockImplementation(function (this: TenantAdapterStore, ...given: unknown[]) {
          const result = method.apply(this, given);
          calls.push(name);
          results.push(JSON.stringify(result).length);
          return result;
        });
      }
      return () => cursors.reduce((sum, { rowsRead, rowsWritten }) => sum + rowsRead + rowsWritten, 0);
    });
    const before = seen.bytes.length;
    expect(await answeredBy()).toEqual(["a1", "a2", "a3"]);
    expect(calls).toContain("nearest");
    vi.restoreAllMocks();
    const sent = seen.bytes.slice(before).map((bytes) => bytes.length);
    return { rows: await runInDurableObject(store(), rows), calls, results, sent };
  };
  /** The lowest costs of three requests, because an alarm may touch rows of its own meanwhile. */
  const least = async () => {
    const all = [await costs(), await costs(), await costs()];
    return all.reduce((least, one) => (one.rows < least.rows ? one : least));
  };
  await costs();
  const withThree = await least();
  expect(withThree.rows).toBeGreaterThan(0);
  await runInDurableObject(store(), (_, { storage }) => {
    const records = new AdapterRecords(storage.sql);
    const record = records.find("a1")!;
    const ready = record.memory!.ready!;
    const far = { ...ready, centroid: ready.centroid.map((value) => -value) };
    for (let i = 3; i < 1000; i++) {
      records.put({ ...record, name: `n${i}`, memory: { ready: { ...far, hash: `${i}` }, job: null } });
    }
  });
  await evictDurableObject(store());
  const first = await costs();
  expect(first.rows).toBeGreaterThan(withThree.rows);
  const withThousand = await least();
  const costsAs = JSON.stringify({ withThree, withThousand });
  console.log(`${costsAs}, first ${first.rows} rows`);
  expect(withThousand).toEqual(withThree);
  // After a deletion and an addition, the deleted adapter no longer answers and the new one does.
  await remove("a2");
  await create({ documents: ["aaaaaaab"] }, "a4");
  expect((await answeredBy()).sort()).toEqual(["a1", "a3", "a4"]);
});

test("an isolate remembers for ten seconds that a tenant has no adapters, then looks again behind an answer", async () => {
  let [nowMs, looks] = [Date.now(), 0];
  const stores = {
    getByName: (name: string) => {
      looks++;
      return env.ADAPTERS.getByName(name);
    },
  } as unknown as typeof env.ADAPTERS;
  const behind: Promise<void>[] = [];
  const adapters = createTenantAdapters({
    ...{ stores, clients: () => [], now: () => nowMs },
    background: (work) => void behind.push(work),
  });
  const access = { tenant: own.tenant, scopes: ["completions" as const] };
  const ask = async () =>
    (await adapters.nearest(access, [new Float32Array(4).fill(0.5)], await manifestHash())).nearest;
  for (let i = 0; i < 3; i++) expect(await ask()).toEqual([[]]);
  expect(looks).toBe(1);
  own.backendMakes({});
  await create({ documents: ["aaab aaab aaab"] });
  nowMs += 9_000;
  expect([await ask(), looks]).toEqual([[[]], 1]);
  nowMs += 2_000;
  expect([await ask(), looks]).toEqual([[[]], 2]);
  await Promise.all(behind);
  expect((await ask())[0].map(({ name }) => name)).toEqual(["notes"]);
  // The isolate that made the adapter knows it at once, but a key without the scope never asks.
  adapters.noteNew(own.tenant);
  const unseen = await adapters.nearest({ tenant: own.tenant, scopes: ["embeddings"] }, [new Float32Array(4)], "x");
  expect(unseen.nearest).toEqual([[]]);
});
