import { expect, onTestFinished, test, vi } from "vitest";
import { configured, readConfig } from "../../../edge/config.ts";
import { createKeyStore } from "../../../edge/tenants/keys.ts";
import { createRecords } from "../../../edge/tenants/records.ts";
import { plans } from "../../../shared/contracts/tenants.ts";
import { turn } from "../../support/scripted-backends.ts";

const valid = { BACKEND_URLS: "http://127.0.0.1:8788", TENANT_KEYS: "[]", CELLS_PER_REGION: "4" };
/** The hashes are those of "one" and "two". */
const keys = [
  { hash: "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", tenant: "first" },
  { hash: "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3", tenant: "second" },
];

test("reads the Worker's variables", () => {
  const config = readConfig({
    BACKEND_URLS: "http://a:1/, weur=https://b",
    TENANT_KEYS: JSON.stringify(keys),
    CELLS_PER_REGION: "8",
    MODEL_ALIASES: '{"gpt-4o-mini": "smollm2-135m:auto"}',
  });
  expect(config).toEqual({
    adminKey: null,
    backendSecrets: [],
    backendFetch: expect.any(Function),
    backends: [
      { url: "http://a:1", region: null },
      { url: "https://b", region: "weur" },
    ],
    tenantKeys: keys,
    aliases: { "gpt-4o-mini": "smollm2-135m:auto" },
    cellsPerRegion: 8,
    otlp: null,
    traceRatio: 1,
    version: null,
  });
});

test("takes the first secret to sign with", () => {
  const secrets = `${"n".repeat(32)},${"o".repeat(32)}`;
  expect(readConfig({ ...valid, BACKEND_SECRETS: secrets }).backendSecrets).toEqual(secrets.split(","));
  expect(() => readConfig({ ...valid, BACKEND_SECRETS: "too-short" })).toThrow(/BACKEND_SECRETS(?!.*too-short)/);
});

test.each(["BACKEND_CERTIFICATE", "BACKEND_VPC"])("calls backends through a bound %s", async (name) => {
  const fetch = vi.fn(async () => new Response());
  const init = { headers: { authorization: "signed" } };
  await readConfig({ ...valid, [name]: { fetch } }).backendFetch("https://b/readyz", init);
  expect(fetch.mock.calls).toEqual([["https://b/readyz", expect.objectContaining(init)]]);
});

test.each([
  [{ BACKEND_URLS: "" }, /BACKEND_URLS/],
  [{ BACKEND_URLS: "file:///etc" }, /BACKEND_URLS.*file/],
  [{ BACKEND_URLS: "mars=https://a" }, /BACKEND_URLS.*mars.*weur/],
  [{ BACKEND_URLS: "https://a,weur=https://a/" }, /BACKEND_URLS.*twice/],
  [{ BACKEND_URLS: "https://{name}.{name}.a" }, /BACKEND_URLS/],
  [{ BACKEND_URLS: "https://{name}-b.a" }, /BACKEND_URLS/],
  [{ TENANT_KEYS: "sk-plain" }, /TENANT_KEYS/],
  [{ TENANT_KEYS: '[{"hash":"sk-plain","tenant":"a"}]' }, /TENANT_KEYS/],
  [{ TENANT_KEYS: `[{"hash":"${"a".repeat(64)}","tenant":"xx:a"}]` }, /TENANT_KEYS.*prefixes eu: or none/],
  [{ MODEL_ALIASES: "gpt-4o-mini=gpt2" }, /MODEL_ALIASES must be a JSON object/],
  [{ MODEL_ALIASES: '{"gpt-4o-mini": 1}' }, /MODEL_ALIASES must be a JSON object/],
  [{ CELLS_PER_REGION: "0" }, /CELLS_PER_REGION.*"0"/],
  [{ CELLS_PER_REGION: "many" }, /CELLS_PER_REGION.*many/],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4318" }, /OTEL_EXPORTER_OTLP_ENDPOINT.*collector:4318/],
  [{ OTEL_TRACES_SAMPLER_ARG: "2" }, /OTEL_TRACES_SAMPLER_ARG.*"2"/],
])("refuses %j", (broken, message) => {
  expect(() => readConfig({ ...valid, ...broken })).toThrow(message);
});

test.each([
  ["BACKEND_URLS", "file:///etc"],
  ["BACKEND_SECRETS", "too-short"],
  ["TENANT_KEYS", "sk-plain"],
] as const)(
  "the value in use stays where a new %s is refused: one warning says so, and the next good one is taken",
  (name, bad) => {
    const warn = vi.spyOn(console, "warn").mockReturnValue();
    onTestFinished(() => warn.mockRestore());
    const env: Parameters<typeof readConfig>[0] = { ...valid };
    const made = configured(env, ({ backends }) => backends);
    const first = made();
    env[name] = bad;
    expect([made(), made()]).toEqual([first, first]);
    expect(warn.mock.calls.map(([line]) => JSON.parse(line as string))).toMatchObject([
      { event: "configuration_refused", cause: expect.stringContaining(name) },
    ]);
    env[name] = valid[name as "BACKEND_URLS"];
    env.BACKEND_URLS = "https://b";
    expect(made()).toEqual([{ url: "https://b", region: null }]);
    env[name] = bad;
    expect(() => configured(env, () => null)()).toThrow(name);
  },
);

const noRecords = { get: async <T>() => null as T, isCached: () => false, mayHaveKey: async () => true };

test("a key store knows a tenant by the key's hash alone; one of the configuration has every scope and no limits", async () => {
  const store = createKeyStore(keys, noRecords, () => 0);
  expect(await store.accessOf("one", "")).toEqual({
    tenant: "first",
    keyId: keys[0].hash.slice(0, 16),
    scopes: ["completions", "embeddings", "adapters", "usage"],
    limits: plans.unlimited,
    memoryTokens: null,
    fileBytes: null,
    origins: [],
    aliases: {},
  });
  expect(await store.accessOf("two", "")).toMatchObject({ tenant: "second" });
  for (const key of ["", "on", "onee", keys[0].hash]) {
    await expect(store.accessOf(key, "")).rejects.toMatchObject({ kind: "unauthorized" });
  }
  await expect(createKeyStore([], noRecords, () => 0).accessOf("one", "")).rejects.toThrow(/not known/);
});

test.each([
  ["192.0.2.1", "192.0.2.1"],
  ["2001:db8::1:2:3:4", "2001:db8:0:0"],
  ["2001:db8::9:2:3:4", "2001:db8:0:0"],
  ["2001:db8:1:2:3::4", "2001:db8:1:2"],
  ["2001:db8:1::", "2001:db8:1:0"],
  ["::1", "0:0:0:0"],
  ["::ffff:192.0.2.1", "::ffff:192.0.2.1"],
])("a key store counts look-ups of %s for the network %s", async (address, network) => {
  const limit = vi.fn(async () => ({ success: true }));
  const store = createKeyStore([], noRecords, () => 0, { limit });
  await expect(store.accessOf("guess", address)).rejects.toThrow(/not known/);
  expect(limit.mock.calls).toEqual([[{ key: network }]]);
});

test("a key store says that it cannot tell where the records cannot be read", async () => {
  const store = createKeyStore([], { ...noRecords, get: () => Promise.reject(new Error("away")) }, () => 0);
  await expect(store.accessOf("one", "")).rejects.toMatchObject({ kind: "backend_unavailable", retryAfterSeconds: 1 });
});

test("records are read again behind a request after 600 ms, before it after a second, and kept where they cannot be read", async () => {
  let [nowMs, stored] = [0, 1];
  const namespace = {
    get: () => (stored > 0 ? Promise.resolve(stored) : Promise.reject(new Error("away"))),
    list: () => Promise.reject(new Error("not to be listed")),
  };
  const records = createRecords(
    namespace,
    () => nowMs,
    () => {},
  );
  const recordOf = (name: string) => records.get(name, (value) => value);
  for (const [atMs, written, found] of [
    [0, 1, 1],
    [599, 2, 1],
    [1000, 2, 2],
    [1600, 3, 2],
    [1601, 3, 3],
    [9000, 0, 3],
  ]) {
    [nowMs, stored] = [atMs, written];
    expect([atMs, await recordOf("a")]).toEqual([atMs, found]);
    await turn();
  }
  await expect(recordOf("b")).rejects.toThrow("away");
});

test("the names of key records are listed once in ten seconds for all requests, even if the listing fails", async () => {
  let nowMs = 0;
  const listings: PromiseWithResolvers<string[]>[] = [];
  const list = async () => {
    const listing = Promise.withResolvers<string[]>();
    listings.push(listing);
    return { keys: (await listing.promise).map((name) => ({ name })), list_complete: true } as const;
  };
  const records = createRecords(
    { get: async () => null, list },
    () => nowMs,
    () => {},
  );
  const first = records.mayHaveKey("key:b");
  // A request does not wait for a listing that another request began.
  expect(await records.mayHaveKey("key:b")).toBe(true);
  listings[0].resolve(["key:a"]);
  expect(await first).toBe(false);
  expect([await records.mayHaveKey("key:a"), await records.mayHaveKey("key:b")]).toEqual([true, false]);
  nowMs = 10_000;
  const later = records.mayHaveKey("key:b");
  expect(await records.mayHaveKey("key:b")).toBe(false);
  listings[1].reject(new Error("away"));
  expect(await later).toBe(false);
  expect(listings).toHaveLength(2);
  nowMs = 20_000;
  const last = records.mayHaveKey("key:b");
  listings[2].resolve(["key:b"]);
  expect(await last).toBe(true);
});
