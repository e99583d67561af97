/** What the keys command does to records, over a namespace in memory. */
import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { createKeyStore } from "../../../edge/tenants/keys.ts";
import { createRecords } from "../../../edge/tenants/records.ts";
import {
  type Actor,
  changeTenant,
  createKey,
  deleteTenant,
  listKeys,
  type NewKey,
  readTenant,
  revokeKey,
  rotateKey,
  stateOf,
} from "../../../infra/keys/actions.ts";
import { aliases, duration, limit, origins, scopeList, when } from "../../../infra/keys/options.ts";
import { limits as publicLimits } from "../../../shared/contracts/limits.ts";
import { limitsOf, memoryTokensOf, plans } from "../../../shared/contracts/tenants.ts";

function actor() {
  const stored = new Map<string, string>();
  /** The metadata. */
  const tenants = new Map<string, string>();
  const read: string[] = [];
  let clockMs = Date.UTC(2026, 10, 25);
  let keys = 0;
  const acting: Actor = {
    namespace: {
      names: async (prefix) =>
        [...stored.keys()]
          .filter((name) => name.startsWith(prefix))
          .map((name) => ({ name, tenant: tenants.get(name) ?? null })),
      get: async (names) => {
        read.push(...names);
        return new Map(
          names.flatMap((name) => (stored.has(name) ? [[name, JSON.parse(stored.get(name)!)] as const] : [])),
        );
      },
      put: async (records) => {
        for (const [name, record] of records) {
          stored.set(name, JSON.stringify(record));
          if ("tenant" in record) tenants.set(name, record.tenant);
        }
      },
      remove: async (names) => {
        for (const name of names) stored.delete(name);
      },
    },
    now: () => new Date(clockMs),
    newKey: () => `sk-${keys++}`,
  };
  return { acting, stored, tenants, read, pass: (ms: number) => (clockMs += ms), now: () => new Date(clockMs) };
}

/** What the edge says of a key that is stored so; a fresh isolate reads it. */
function accessOf({ stored, now }: Pick<ReturnType<typeof actor>, "stored" | "now">, key: string) {
  const get = async (name: string) => JSON.parse(stored.get(name) ?? "null") as unknown;
  const namespace = { get, list: () => Promise.reject(new Error("not to be listed")) };
  const nowMs = () => now().getTime();
  const keys = createKeyStore(
    [],
    createRecords(namespace, nowMs, () => undefined),
    nowMs,
  );
  return keys.accessOf(key, "");
}

/** Runs `other` between what a command reads and what it writes. */
function interrupted({ acting }: ReturnType<typeof actor>, other: () => Promise<unknown>): Actor {
  const { namespace } = acting;
  const put: Actor["namespace"]["put"] = async (records) => {
    await other();
    await namespace.put(records);
  };
  return { ...acting, namespace: { ...namespace, put } };
}

const all = { scopes: ["completions", "usage"] as const, expiresAt: null };
const hour = 3_600_000;

test("a new key is stored as its hash alone, under the hash's first characters", async () => {
  const { acting, stored } = actor();
  const { key, id, record } = await createKey(acting, "acme", all);
  const hash = createHash("sha256").update(key).digest("hex");
  expect(record).toMatchObject({ hash, tenant: "acme", scopes: ["completions", "usage"], revokedAt: null });
  expect(id).toBe(hash.slice(0, 16));
  expect([...stored.keys()]).toEqual([`key:${id}`]);
  expect([...stored.values()].join()).not.toContain(key);
});

test("lists are by tenant and time, of one tenant or all", async () => {
  const { acting, pass } = actor();
  for (const tenant of ["zeta", "acme", "zeta"]) {
    await createKey(acting, tenant, all);
    pass(1);
  }
  expect((await listKeys(acting)).map(({ record }) => record.tenant)).toEqual(["acme", "zeta", "zeta"]);
  expect(await listKeys(acting, "acme")).toHaveLength(1);
  expect(await listKeys(acting, "none")).toEqual([]);
});

test("a rotated key goes on for the overlap, a revoked one not at all", async () => {
  const { acting, pass, now } = actor();
  const old = await createKey(acting, "acme", all);
  const made = await rotateKey(acting, old.id, { overlapMs: 24 * hour, expiresAt: null });
  expect(made.record).toMatchObject({ tenant: "acme", scopes: ["completions", "usage"], expiresAt: null });
  const states = async () => (await listKeys(acting)).map(({ record }) => stateOf(record, now())).sort();
  expect(await states()).toEqual(["active", "expires"]);
  pass(24 * hour);
  expect(await states()).toEqual(["active", "expired"]);
  await expect(rotateKey(acting, old.id, { overlapMs: hour, expiresAt: null })).rejects.toThrow(/expired/);
  await revokeKey(acting, made.id);
  expect(await states()).toEqual(["expired", "revoked"]);
  await expect(revokeKey(acting, "0".repeat(16))).rejects.toThrow(/no key 0000000000000000/);
});

test("an overlap never prolongs a key", async () => {
  const { acting, now } = actor();
  const soon = new Date(now().getTime() + hour);
  const old = await createKey(acting, "acme", { ...all, expiresAt: soon });
  const made = await rotateKey(acting, old.id, { overlapMs: 24 * hour, expiresAt: null });
  expect(made.old.expiresAt).toBe(soon.toISOString());
});

test("limits are the plan's but for those that are set, and may be the plan's again", async () => {
  const { acting } = actor();
  expect(await readTenant(acting, "acme")).toBeNull();
  await changeTenant(acting, "acme", { limits: { requestsPerMinute: 7, tokensPerMonth: null } });
  await changeTenant(acting, "acme", { limits: { tokensPerMinute: 0 }, origins: ["https://a.example"] });
  const record = (await readTenant(acting, "acme"))!;
  expect(limitsOf(record)).toEqual({
    ...plans.standard,
    requestsPerMinute: 7,
    tokensPerMonth: null,
    tokensPerMinute: 0,
  });
  expect(record.origins).toEqual(["https://a.example"]);
  expect(record).not.toHaveProperty("aliases");
  await changeTenant(acting, "acme", { limits: {}, aliases: { "gpt-4o": "gpt2" } });
  await changeTenant(acting, "acme", { limits: {} });
  expect((await readTenant(acting, "acme"))!.aliases).toEqual({ "gpt-4o": "gpt2" });
  const many = Object.fromEntries(Array.from({ length: publicLimits.aliases + 1 }, (_, i) => [`a${i}`, "gpt2"]));
  await expect(changeTenant(acting, "acme", { limits: {}, aliases: many })).rejects.toThrow("more than 64 aliases");
  expect(memoryTokensOf(record)).toBe(publicLimits.tenantMemoryTokens);
  await changeTenant(acting, "acme", { memoryTokens: 7, limits: {} });
  await changeTenant(acting, "acme", { plan: "unlimited", limits: { requestsPerMinute: "plan" } });
  expect(limitsOf((await readTenant(acting, "acme"))!)).toEqual({ ...plans.unlimited, tokensPerMinute: 0 });
  expect(memoryTokensOf((await readTenant(acting, "acme"))!)).toBe(7);
  await changeTenant(acting, "acme", { memoryTokens: "plan", limits: {} });
  expect(memoryTokensOf((await readTenant(acting, "acme"))!)).toBe(null);
});

test("a key has a copy of its tenant's record, and a change reaches every key", async () => {
  const { acting, stored, tenants, read } = actor();
  const first = await createKey(acting, "acme", all);
  const other = await createKey(acting, "zeta", all);
  tenants.delete(`key:${first.id}`);
  const old = JSON.parse(stored.get(`key:${first.id}`)!);
  const revoked = await createKey(acting, "acme", all);
  await revokeKey(acting, revoked.id);
  read.splice(0);
  const record = await changeTenant(acting, "acme", { limits: { requestsPerMinute: 7 } });
  expect(read).not.toContain(`key:${other.id}`);
  const late = await createKey(acting, "acme", all);
  const rotated = await rotateKey(acting, first.id, { overlapMs: hour, expiresAt: null });
  const keys = new Map((await listKeys(acting)).map(({ id, record: key }) => [id, key]));
  for (const { id } of [first, revoked, late, rotated]) expect(keys.get(id)?.tenantRecord).toEqual(record);
  expect(keys.get(other.id)?.tenantRecord?.limits).toEqual({});
  expect(keys.get(revoked.id)?.revokedAt).not.toBeNull();
  expect({ ...keys.get(first.id), expiresAt: null, tenantRecord: record }).toEqual({
    ...old,
    revokedAt: null,
    tenantRecord: record,
  });
});

const limited = { limits: { requestsPerMinute: 7 } };
const limitAcme = (acting: Actor) => changeTenant(acting, "acme", limited);
const rotate = (acting: Actor, id: string) => rotateKey(acting, id, { overlapMs: hour, expiresAt: null });

test.each([
  ["limits", [limitAcme]],
  ["rotate", [rotate]],
  ["limits, in it rotate", [rotate, limitAcme]],
  ["rotate, in it limits", [limitAcme, rotate]],
])("a key stays revoked if it is revoked while there run %s", async (_, commands) => {
  const world = actor();
  const { key, id } = await createKey(world.acting, "acme", all);
  let run: () => Promise<unknown> = () => revokeKey(world.acting, id);
  for (const command of commands) {
    const racing = interrupted(world, run);
    run = () => command(racing, id);
  }
  await run();
  await expect(accessOf(world, key)).rejects.toThrow(/revoked/);
  const keys = await listKeys(world.acting);
  expect(stateOf(keys.find((one) => one.id === id)!.record, world.now())).toBe("revoked");
});

test("no two commands that run at once take a key, or one that they make, out of its jurisdiction", async () => {
  const world = actor();
  const made: [tenant: string, key: string][] = [];
  const commands: ((acting: Actor) => Promise<unknown>)[] = [];
  for (const tenant of ["acme", "eu:acme"]) {
    const note = ({ key }: NewKey) => made.push([tenant, key]);
    const first = await createKey(world.acting, tenant, all);
    note(first);
    commands.push(
      (acting) => changeTenant(acting, tenant, limited),
      (acting) => createKey(acting, tenant, all).then(note),
      (acting) => rotate(acting, first.id).then(note),
    );
  }
  for (const one of commands) for (const other of commands) await one(interrupted(world, () => other(world.acting)));
  for (const [tenant, key] of made) expect(await accessOf(world, key)).toMatchObject({ tenant });
});

test("a key whose tenant has a prefix that this release does not know opens nothing", async () => {
  const world = actor();
  const { key } = await createKey(world.acting, "mars:acme", all);
  await expect(accessOf(world, key)).rejects.toMatchObject({
    cause: { message: expect.stringContaining("prefixes eu: or none") },
  });
});

test("a key that is rotated while `limits` runs has the new limits, and ends with the overlap", async () => {
  const world = actor();
  const { key, id } = await createKey(world.acting, "acme", all);
  const racing = interrupted(world, () => rotateKey(world.acting, id, { overlapMs: hour, expiresAt: null }));
  await changeTenant(racing, "acme", limited);
  expect(await accessOf(world, key)).toMatchObject(limited);
  world.pass(hour);
  await expect(accessOf(world, key)).rejects.toThrow(/expired/);
});

test("a tenant is erased once its keys are revoked, and nothing of it is left; where the edge fails, they stay revoked", async () => {
  const { acting, stored, tenants, ...rest } = actor();
  const other = await createKey(acting, "other", all);
  const before = new Map(stored);
  const [one, two] = [await createKey(acting, "acme", all), await createKey(acting, "acme", all)];
  await rotateKey(acting, two.id, { overlapMs: hour, expiresAt: null });
  await changeTenant(acting, "acme", { limits: { tokensPerMonth: 5 } });
  const erased = {
    ...{ object: "tenant.erased" as const, tenant: "acme", adapters: 2 },
    backends: { confirmed: [], pending: ["https://gpu.example"], partly_asked: [] },
  };
  const steps: string[] = [];
  const edge = {
    async inForce() {
      await expect(accessOf({ stored, ...rest }, one.key)).rejects.toThrow("revoked");
      steps.push("in force");
    },
    async erase(key: string) {
      expect((await accessOf({ stored, ...rest }, key)).scopes).toEqual(["erase"]);
      steps.push("erase");
      if (steps.length < 3) throw new Error("away");
      return erased;
    },
  };
  await expect(deleteTenant(acting, "acme", edge)).rejects.toThrow("away");
  for (const { id, record } of await listKeys(acting, "acme")) {
    expect([id, stateOf(record, rest.now())]).toEqual([id, "revoked"]);
  }
  expect(await deleteTenant(acting, "acme", edge)).toEqual({ keys: 4, erased });
  expect(steps).toEqual(["in force", "erase", "in force", "erase"]);
  expect(stored).toEqual(before);
  expect((await accessOf({ stored, ...rest }, other.key)).tenant).toBe("other");
});

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
  expect(scopeList("usage,completions")).toEqual(["usage", "completions"]);
  expect(() => scopeList("admin")).toThrow(/admin/);
  expect(origins("https://b.example/", ["https://a.example"])).toEqual(["https://a.example", "https://b.example"]);
  expect(aliases("b=gpt2:b", { a: "gpt2" })).toEqual({ a: "gpt2", b: "gpt2:b" });
  for (const text of ["gpt-4o", "=gpt2", "gpt-4o=", "a=b=c"])
    expect(() => aliases(text, undefined)).toThrow(/gpt-4o-mini=/);
  for (const text of ["*", "example.com", "https://a.example/path"]) expect(() => origins(text, undefined)).toThrow();
});
