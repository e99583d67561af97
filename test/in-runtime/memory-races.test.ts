/** Changes of a tenant's documents at the same time as another change, a deletion or an erasure. */
import { runInDurableObject } from "cloudflare:test";
import { delay, HttpResponse, http } from "msw";
import { beforeAll, expect, test, vi } from "vitest";
import { AdapterRecords } from "../../edge/tenants/adapter-records.ts";
import type { TenantAdapterStore } from "../../edge/tenants/tenant-adapter-store.ts";
import { type MemoryRequest, memoryRequestSchema } from "../../shared/contracts/inference.ts";
import { expectError } from "./answers.ts";
import { backendUrl } from "./backend.ts";
import { publish } from "./model.ts";
import { network } from "./network.ts";
import { ready, useTenant } from "./tenant.ts";

beforeAll(() => publish());

const own = useTenant("races");
const { store, alarm, rows, shown } = own;
const patience = { timeout: 15_000 };
const create = (documents: unknown[]) => own.create({ documents });
const add = (documents: unknown[]) => own.app().post("/v1/adapters/notes/documents", { documents });
const untilReady = () =>
  vi.waitFor(async () => expect((await shown()).memory).toMatchObject({ status: "ready", documents: 2 }), patience);
const namesShown = async () => (await shown()).documents?.map(({ name }) => name);

/** A backend that makes a memory only when the test calls the request's `release`. */
function backendWaits() {
  const { deletions } = own.backendMakes();
  const puts: { request: MemoryRequest; release: () => void }[] = [];
  network.use(
    http.put(`${backendUrl}/v1/memories/*`, async ({ request }) => {
      let isReleased = false;
      const release = () => {
        isReleased = true;
      };
      puts.push({ request: memoryRequestSchema.parse(await request.json()), release });
      // Polls, because a promise that another object settles does not continue this one.
      while (!isReleased) await delay(1);
      return new HttpResponse(`${JSON.stringify(ready)}\n`);
    }),
  );
  const until = (count: number) => vi.waitFor(() => expect(puts.length).toBeGreaterThanOrEqual(count), patience);
  return { puts, deletions, until };
}

test("of two requests that add documents at once, neither loses its own", async () => {
  const { puts, until } = backendWaits();
  const first = create([{ name: "a", text: "aaab" }]);
  await until(1);
  const second = await add([{ name: "b", text: "bbba" }]);
  expect([second.status, (await first).status]).toEqual([202, 202]);
  const ended = alarm();
  await until(2);
  for (const { release } of puts) release();
  await ended;
  await untilReady();
  expect(await namesShown()).toEqual(["a", "b"]);
});

test("a request whose object is lost while it waits is a job that the object continues", async () => {
  const { puts, until } = backendWaits();
  const created = create(["aaab", "bbba"]);
  await until(1);
  await runInDurableObject(store(), (_, state) => state.abort("lost")).catch(() => undefined);
  expect((await created).status).toBe(202);
  await until(2);
  for (const { release } of puts) release();
  await untilReady();
  expect(puts[1].request).toEqual(puts[0].request);
});

test("a name is created once, however many create it at a time", async () => {
  const { puts, until } = backendWaits();
  const both = [create(["aaab"]), create(["bbba"])];
  await until(1);
  for (const { release } of puts) release();
  const statuses = (await Promise.all(both)).map(({ status }) => status);
  expect(statuses.toSorted()).toEqual([201, 400]);
  expect(puts.map(({ request }) => request.documents.length)).toEqual([1]);
});

/** Runs `meanwhile` after the next change has stored its documents, and before the change takes effect. */
async function during(meanwhile: (object: TenantAdapterStore, storage: DurableObjectStorage) => unknown) {
  await runInDurableObject(store(), (object: TenantAdapterStore, { storage }) => {
    const original = storage.transactionSync;
    storage.transactionSync = (closure) => {
      storage.transactionSync = original;
      const result = original.call(storage, closure);
      void meanwhile(object, storage);
      return result as never;
    };
  });
}

test("a change that meets the end of a job keeps what the job made", async () => {
  const { puts, until, deletions } = backendWaits();
  const first = create([{ name: "a", text: "aaab" }]);
  await until(1);
  const { hash } = (await store().find("notes"))!.memory!.job!;
  await during((_, { sql }) => {
    const records = new AdapterRecords(sql);
    const record = records.find("notes")!;
    const { status, builtTokens, error, ...ready } = record.memory!.job!;
    records.put({ ...record, memory: { ready, job: null } });
  });
  expect((await add([{ name: "b", text: "bbba" }])).status).toBe(202);
  expect((await shown()).memory).toMatchObject({ hash, documents: 2 });
  puts[0].release();
  expect((await first).status).toBe(201);
  const ended = alarm();
  await until(2);
  puts[1].release();
  await ended;
  await untilReady();
  expect(deletions).toEqual([]);
});

test("an erasure leaves nothing of an adapter that is being created", async () => {
  backendWaits();
  await during((object) => object.erase());
  await expectError(create(["aaab"]), { status: 404, code: "adapter_not_found" });
  expect(await store().list()).toEqual([]);
  expect(await rows("SELECT hash FROM documentParts")).toEqual([]);
});

test("a deleted adapter leaves no documents that a change has replaced", async () => {
  const { puts, until, deletions } = backendWaits();
  for (const made of [() => create([{ name: "a", text: "aaab" }]), () => add([{ name: "b", text: "bbba" }])]) {
    const answer = made();
    await until(puts.length + 1);
    puts.at(-1)!.release();
    await answer;
  }
  await own.remove();
  expect([await rows("SELECT hash FROM documentParts"), deletions.length]).toEqual([[], 2]);
});
