/** What the admin API does to the records of keys and tenants, over a namespace in memory. */
import { createHash, randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { KeyRecords, type NewKey, type RecordStore, stateOf } from "../../../edge/tenants/key-records.ts";
import { createKeyStore } from "../../../edge/tenants/keys.ts";
import { createRecords } from "../../../edge/tenants/records.ts";
import { limits as publicLimits } from "../../../shared/contracts/limits.ts";
import type { Scope } from "../../../shared/contracts/tenants.ts";

const random = () => randomBytes(32);

class World {
  readonly stored = new Map<string, string>();
  /** The tenant in each record's metadata, by the record's name. */
  readonly tenants = new Map<string, string>();
  readonly read: string[] = [];
  pageNames = 2;
  clockMs = Date.UTC(2026, 10, 25);
  readonly now = () => this.clockMs;
  readonly store: RecordStore = {
    get: async (names) => {
      this.read.push(...names);
      return new Map(names.map((name) => [name, JSON.parse(this.stored.get(name) ?? "null")]));
    },
    list: async ({ prefix, cursor = "0" }) => {
      const all = [...this.stored.keys()].filter((name) => name.startsWith(prefix));
      const keys = all.slice(Number(cursor), Number(cursor) + this.pageNames).map((name) => {
        const tenant = this.tenants.get(name);
        return { name, ...(tenant !== undefined && { metadata: { tenant } }) };
      });
      const next = Number(cursor) + this.pageNames;
      return next >= all.length ? { keys, list_complete: true } : { keys, list_complete: false, cursor: String(next) };
    },
    put: async (name, value, { metadata }) => {
      this.stored.set(name, value);
      if (metadata) this.tenants.set(name, metadata.tenant);
    },
    delete: async (name) => void this.stored.delete(name),
  };
  readonly records = new KeyRecords(this.store, this.now, random);

  after(ms: number): string {
    return new Date(this.clockMs + ms).toISOString();
  }

  create(tenant: string, expiresAt: string | null = null): Promise<NewKey> {
    return this.records.create(tenant, all, expiresAt);
  }

  /** Rotates a key. The old one remains valid for `hours`. */
  rotate(id: string, hours: number, records = this.records) {
    return records.rotate(id, { oldExpiresAt: this.after(hours * hour), expiresAt: null });
  }

  async states(): Promise<string[]> {
    return (await this.records.list()).map(({ record }) => stateOf(record, this.clockMs)).sort();
  }

  /** Records that run `other` just before their first write, as a concurrent request would. */
  interrupted(other: () => Promise<unknown>): KeyRecords {
    let run: (() => Promise<unknown>) | null = other;
    const put: RecordStore["put"] = async (...args) => {
      const now = run;
      run = null;
      await now?.();
      await this.store.put(...args);
    };
    return new KeyRecords({ ...this.store, put }, this.now, random);
  }

  /** The access that a fresh isolate of the edge grants to a key in this store. */
  accessOf(key: string) {
    const get = async (name: string) => JSON.parse(this.stored.get(name) ?? "null") as unknown;
    const namespace = { get, list: () => Promise.reject(new Error("not to be listed")) };
    const records = createRecords(namespace, this.now, () => undefined);
    return createKeyStore([], records, this.now).accessOf(key, "");
  }
}

const all: readonly Scope[] = ["completions", "usage"];
const hour = 3_600_000;
const limited = { limits: { requestsPerMinute: 7 } };

test("a new key is stored as its hash alone, under the hash's first characters", async () => {
  const world = new World();
  const { key, id, record } = await world.create("acme");
  expect(key).toMatch(/^sk-chameleon-[\w-]{43}$/);
  const hash = createHash("sha256").update(key).digest("hex");
  expect(record).toMatchObject({ hash, tenant: "acme", scopes: all, revokedAt: null });
  expect(id).toBe(hash.slice(0, 16));
  expect([...world.stored.keys()]).toEqual([`key:${id}`]);
  expect([...world.stored.values()].join()).not.toContain(key);
});

test("lists are sorted by tenant and time; more keys than a list may have are refused, unless a tenant is named", async () => {
  const world = new World();
  for (const tenant of ["zeta", "acme", "zeta"]) {
    await world.create(tenant);
    world.clockMs++;
  }
  expect((await world.records.list()).map(({ record }) => record.tenant)).toEqual(["acme", "zeta", "zeta"]);
  expect(await world.records.list("none")).toEqual([]);
  for (let i = 0; i <= publicLimits.listedKeys; i++) {
    world.stored.set(`key:${i}`, "null");
    world.tenants.set(`key:${i}`, "other");
  }
  world.pageNames = 1000;
  world.read.splice(0);
  await expect(world.records.list()).rejects.toThrow(`more than ${publicLimits.listedKeys} keys; name a tenant`);
  expect(world.read).toEqual([]);
  expect(await world.records.list("acme")).toHaveLength(1);
});

test("a rotated key remains valid for the overlap, but no longer than before; a revoked one not at all", async () => {
  const other = new World();
  const soon = other.after(hour);
  const { old: ending } = await other.rotate((await other.create("acme", soon)).id, 24);
  expect(ending.record.expiresAt).toBe(soon);
  const world = new World();
  const old = await world.create("acme");
  const { made } = await world.rotate(old.id, 24);
  expect(made.record).toMatchObject({ tenant: "acme", scopes: all, expiresAt: null });
  expect(await world.states()).toEqual(["active", "expires"]);
  world.clockMs += 24 * hour;
  expect(await world.states()).toEqual(["active", "expired"]);
  const again = world.rotate(old.id, 1);
  await expect(again).rejects.toThrow(/expired/);
  await world.records.revoke(made.id);
  expect(await world.states()).toEqual(["expired", "revoked"]);
  for (const id of ["0".repeat(16), "..", "x".repeat(600)]) {
    await expect(world.records.revoke(id)).rejects.toMatchObject({ kind: "not_found" });
  }
});

test("a valid key has a copy of its tenant's record, and a change reaches every one", async () => {
  const world = new World();
  const first = await world.create("acme");
  const other = await world.create("zeta");
  world.tenants.delete(`key:${first.id}`);
  const old = JSON.parse(world.stored.get(`key:${first.id}`)!);
  const revoked = await world.create("acme");
  await world.records.revoke(revoked.id);
  world.read.splice(0);
  const record = await world.records.change("acme", limited);
  expect(world.read).not.toContain(`key:${other.id}`);
  const late = await world.create("acme");
  const { made } = await world.rotate(first.id, 1);
  const keys = new Map((await world.records.list()).map(({ id, record: key }) => [id, key]));
  for (const { id } of [first, late, made]) expect(keys.get(id)?.tenantRecord).toEqual(record);
  for (const { id } of [other, revoked]) expect(keys.get(id)?.tenantRecord?.limits).toEqual({});
  expect(keys.get(revoked.id)?.revokedAt).not.toBeNull();
  expect({ ...keys.get(first.id), expiresAt: null }).toEqual({ ...old, revokedAt: null, tenantRecord: record });
});

test("a tenant with more valid keys than one request can write is refused, and nothing changes", async () => {
  const world = new World();
  const { key, id } = await world.create("acme");
  const one = JSON.parse(world.stored.get(`key:${id}`)!);
  for (let i = 0; i < publicLimits.validKeys; i++) {
    const hash = createHash("sha256").update(`${i}`).digest("hex");
    world.stored.set(`key:${hash.slice(0, 16)}`, JSON.stringify({ ...one, hash }));
  }
  const before = new Map(world.stored);
  await expect(world.records.change("acme", limited)).rejects.toThrow(/acme has 501 valid keys, the maximum is 500/);
  expect(world.stored).toEqual(before);
  await world.records.revoke(id);
  await world.records.change("acme", limited);
  await expect(world.accessOf(key)).rejects.toThrow(/revoked/);
});

type Command = (records: KeyRecords, id: string) => Promise<unknown>;
const limitAcme: Command = (records) => records.change("acme", limited);
const rotate: Command = (records, id) => {
  return records.rotate(id, { oldExpiresAt: new Date(Date.UTC(2026, 10, 25, 1)).toISOString(), expiresAt: null });
};

test.each([
  ["limits", [limitAcme]],
  ["rotate", [rotate]],
  ["rotate within limits", [rotate, limitAcme]],
  ["limits within rotate", [limitAcme, rotate]],
])("a key that is revoked while another change runs (%s) stays revoked", async (_, commands) => {
  const world = new World();
  const { key, id } = await world.create("acme");
  let run: () => Promise<unknown> = () => world.records.revoke(id);
  for (const command of commands) {
    const racing = world.interrupted(run);
    run = () => command(racing, id);
  }
  await run();
  await expect(world.accessOf(key)).rejects.toThrow(/revoked/);
  const keys = await world.records.list();
  expect(stateOf(keys.find((one) => one.id === id)!.record, world.clockMs)).toBe("revoked");
});

test("two changes at once never take a key, or a key that they make, out of its jurisdiction", async () => {
  const world = new World();
  const made: [tenant: string, key: string][] = [];
  const commands: ((records: KeyRecords) => Promise<unknown>)[] = [];
  for (const tenant of ["acme", "eu:acme"]) {
    const note = ({ key }: NewKey) => made.push([tenant, key]);
    const first = await world.create(tenant);
    note(first);
    commands.push(
      (records) => records.change(tenant, limited),
      (records) => records.create(tenant, all, null).then(note),
      (records) => world.rotate(first.id, 1, records).then(({ made: rotated }) => note(rotated)),
    );
  }
  for (const one of commands) for (const other of commands) await one(world.interrupted(() => other(world.records)));
  for (const [tenant, key] of made) expect(await world.accessOf(key)).toMatchObject({ tenant });
});

test("a key is refused if its tenant has a prefix that this release does not know", async () => {
  const world = new World();
  const { key } = await world.create("mars:acme");
  const message = expect.stringContaining("prefixes eu: or none");
  await expect(world.accessOf(key)).rejects.toMatchObject({ cause: { message } });
});

test("a key that is rotated while limits change has the new limits, and ends with the overlap", async () => {
  const world = new World();
  const { key, id } = await world.create("acme");
  const racing = world.interrupted(() => rotate(world.records, id));
  await limitAcme(racing, id);
  expect(await world.accessOf(key)).toMatchObject(limited);
  world.clockMs += hour;
  await expect(world.accessOf(key)).rejects.toThrow(/expired/);
});

test("before a tenant is erased its keys are revoked, and stay so while a location may have them cached", async () => {
  const world = new World();
  const other = await world.create("other");
  const before = new Map(world.stored);
  const [one, two] = [await world.create("acme"), await world.create("acme")];
  await rotate(world.records, two.id);
  await world.records.change("acme", { limits: { tokensPerMonth: 5 } });
  const { ids, waitMs } = await world.records.revokeAll("acme");
  expect([ids.length, waitMs]).toEqual([3, 62_000]);
  await expect(world.accessOf(one.key)).rejects.toThrow("revoked");
  world.clockMs += 61_000;
  expect((await world.records.revokeAll("acme")).waitMs).toBe(1000);
  world.clockMs += 1000;
  expect((await world.records.revokeAll("acme")).waitMs).toBe(0);
  // The revocations were written by a clock that was hours ahead.
  world.clockMs -= 9 * hour;
  expect((await world.records.revokeAll("acme")).waitMs).toBe(0);
  await world.records.forget("acme", ids);
  const left = [...world.stored].filter(([name]) => !name.startsWith("revoked:"));
  expect(new Map(left)).toEqual(before);
  expect((await world.accessOf(other.key)).tenant).toBe("other");
  await expect(world.accessOf(one.key)).rejects.toThrow("not known");
});

test("a failing store gives an unavailable error that says when to try again", async () => {
  const world = new World();
  const failing = new KeyRecords({ ...world.store, put: () => Promise.reject(new Error("429")) }, world.now, random);
  const error = { kind: "backend_unavailable", retryAfterSeconds: 1 };
  await expect(failing.create("acme", all, null)).rejects.toMatchObject(error);
});
