/** How commands call the API: which key goes where, and the error of each kind of failure. */
import { rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { z } from "zod";
import { adminConnection, Connection } from "../../../infra/api/connection.ts";
import { localKey } from "../../../infra/local-edge.ts";
import { serve } from "../../support/loopback.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

let state: string;
beforeEach(() => {
  state = temporaryFolder();
  vi.stubEnv("STATE_DIR", state);
  vi.stubEnv("CHAMELEON_API_KEY", "sk-secret");
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

/** The Authorization header that a call with these options carries. */
async function authorizationOf(options: { url?: string; key?: string }): Promise<unknown> {
  const called = vi.spyOn(globalThis, "fetch").mockImplementation(async () => Response.json({}));
  await new Connection(options).call(z.object({}), "GET", "/v1/models");
  return new Headers(called.mock.lastCall?.[1]?.headers).get("authorization");
}

/** Writes the file of a local start, which is used only if its mode is 600. */
async function writeRun(mode: number, edge = "http://127.0.0.1:9399") {
  const file = path.join(state, "run.json");
  await rm(file, { force: true });
  const run = { pid: process.pid, edge, key: "sk-own", adminKey: "sk-admin", worker: process.pid };
  await writeFile(file, JSON.stringify(run), { mode });
}

test("CHAMELEON_API_KEY goes to --url and to a checked local start, and nowhere else", async () => {
  vi.spyOn(process.stderr, "write").mockReturnValue(true);
  const url = "https://edge.example.com";
  expect(await authorizationOf({ url })).toBe("Bearer sk-secret");
  expect(await authorizationOf({ url, key: "sk-other" })).toBe("Bearer sk-other");
  expect(await authorizationOf({})).toBe(`Bearer ${localKey}`);
  await writeRun(0o644);
  expect(await authorizationOf({})).toBe(`Bearer ${localKey}`);
  await writeRun(0o600);
  expect(await authorizationOf({})).toBe("Bearer sk-secret");
  vi.stubEnv("CHAMELEON_API_KEY", "");
  expect(await authorizationOf({})).toBe("Bearer sk-own");
  expect(await authorizationOf({ url })).toBe(`Bearer ${localKey}`);
  vi.stubEnv("CHAMELEON_API_KEY", "sk-secret");
  await writeRun(0o600, "http://192.0.2.1:9399");
  expect(await authorizationOf({})).toBe(`Bearer ${localKey}`);
});

test("the admin key of a checked local start goes there alone, that of CHAMELEON_ADMIN_KEY to --url alone", async () => {
  vi.spyOn(process.stderr, "write").mockReturnValue(true);
  vi.stubEnv("CHAMELEON_ADMIN_KEY", "sk-remote");
  const called = vi.spyOn(globalThis, "fetch").mockImplementation(async () => Response.json({}));
  const calledWith = async (options: { url?: string }) => {
    await adminConnection(options).call(z.object({}), "GET", "/admin/v1/keys");
    const [url, init] = called.mock.lastCall!;
    return [url, new Headers(init?.headers).get("authorization")];
  };
  expect(() => adminConnection({})).toThrow(`no server runs on ${state}; \`chameleon start\` serves it`);
  await writeRun(0o644);
  expect(() => adminConnection({})).toThrow("no server runs");
  await writeRun(0o600);
  expect(await calledWith({})).toEqual(["http://127.0.0.1:9399/admin/v1/keys", "Bearer sk-admin"]);
  const url = "https://edge.example.com";
  expect(await calledWith({ url })).toEqual([`${url}/admin/v1/keys`, "Bearer sk-remote"]);
  vi.stubEnv("CHAMELEON_ADMIN_KEY", "");
  expect(() => adminConnection({ url })).toThrow(`set CHAMELEON_ADMIN_KEY to the admin key of ${url}`);
});

test.each(["кл", "a b", "line\nend"])("the error says that no header can carry the key %j", (key) => {
  const message = "the API key holds a character that no header can carry";
  expect(() => new Connection({ url: "http://127.0.0.1:9", key })).toThrow(message);
  vi.stubEnv("CHAMELEON_API_KEY", key);
  expect(() => new Connection({ url: "http://127.0.0.1:9" })).toThrow(message);
});

test("a server that falls silent, before or within its answer, gives another error than one that cannot be reached", async () => {
  const timeout = AbortSignal.timeout.bind(AbortSignal);
  vi.spyOn(AbortSignal, "timeout").mockImplementation(() => timeout(50));
  const silent = await serve(() => {});
  const halting = await serve((_, response) => void response.writeHead(200).write("{"));
  for (const url of [silent, halting]) {
    const call = new Connection({ url }).call(z.object({}), "GET", "/v1/models");
    await expect(call).rejects.toThrow(new Error(`${url} did not answer within 120 s`));
  }
});

test.each(["<html>Welcome</html>", '{"data":3}'])(
  "an answer that is not this API's is an error of one sentence: %s",
  async (body) => {
    const url = await serve((_, response) => void response.end(body));
    const call = new Connection({ url }).call(z.object({ data: z.array(z.string()) }), "GET", "/v1/models");
    await expect(call).rejects.toThrow(new Error(`${url} does not answer as Chameleon Edge does`));
  },
);
