import { describe, expect, test } from "vitest";
import { readConfig } from "../../../edge/config.ts";
import { createKeyStore } from "../../../edge/tenants/keys.ts";

const valid = { BACKEND_URLS: "http://127.0.0.1:8788", TENANT_KEYS: "[]", SHARD_COUNT: "4" };
/** Of "one" and "two". */
const keys = [
  { hash: "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", tenant: "first" },
  { hash: "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3", tenant: "second" },
];

describe("readConfig", () => {
  test("reads the Worker's variables", () => {
    const config = readConfig({
      BACKEND_URLS: "http://a:1/, https://b",
      TENANT_KEYS: JSON.stringify(keys),
      SHARD_COUNT: "8",
    });
    expect(config).toEqual({ backendUrls: ["http://a:1", "https://b"], tenantKeys: keys, shardCount: 8 });
  });

  test.each([
    [{ BACKEND_URLS: "" }, /BACKEND_URLS/],
    [{ BACKEND_URLS: "file:///etc" }, /BACKEND_URLS.*file/],
    [{ TENANT_KEYS: "sk-plain" }, /TENANT_KEYS/],
    [{ TENANT_KEYS: '[{"hash":"sk-plain","tenant":"a"}]' }, /TENANT_KEYS/],
    [{ SHARD_COUNT: "0" }, /SHARD_COUNT.*"0"/],
    [{ SHARD_COUNT: "many" }, /SHARD_COUNT.*many/],
  ])("refuses %j", (broken, message) => {
    expect(() => readConfig({ ...valid, ...broken })).toThrow(message);
  });
});

describe("a key store", () => {
  test("knows a tenant by the key's hash alone", async () => {
    const store = createKeyStore(keys);
    expect(await store.tenantOf("one")).toBe("first");
    expect(await store.tenantOf("two")).toBe("second");
    for (const key of ["", "on", "onee", keys[0].hash]) expect(await store.tenantOf(key)).toBeNull();
    expect(await createKeyStore([]).tenantOf("one")).toBeNull();
  });
});
