/** The edge of `npm start`: what it refuses an attacker's page, and what it keeps when it is killed. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { connect } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { readLocalRun } from "../../infra/local-run.ts";
import { objectName, pointerName } from "../../shared/artifacts/bucket.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { atEnd } from "../support/at-end.ts";
import { smallBase } from "../support/small-base.ts";
import { startStack } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { variantOf } from "../support/tiny-model.ts";

const infra = fileURLToPath(new URL("../../infra", import.meta.url));
const folder = temporaryFolder();
const start = () =>
  startStack({ EDGE_HOSTS: "edge.example, Other.example", THREADS: "1", STATE_DIR: path.join(folder, "state") });
let stack = await start();
atEnd(() => stack.stop());

/** Sends a head and `bytes` in chunks, even if it is answered meanwhile. Reads the answer until the connection ends. */
async function raw(head: readonly string[], bytes = 0): Promise<{ status: number; text: string }> {
  const socket = connect(Number(new URL(stack.edge).port), "127.0.0.1");
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  socket.on("error", () => undefined);
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.write(`${head.join("\r\n")}\r\nconnection: close\r\n\r\n`);
  const part = 16_384;
  for (let sent = 0; sent < bytes && !socket.destroyed; sent += part) {
    const isDrained = socket.write(`${part.toString(16)}\r\n${" ".repeat(part)}\r\n`);
    if (!isDrained) await Promise.race([once(socket, "drain").catch(() => undefined), closed]);
  }
  if (bytes > 0) socket.write("0\r\n\r\n");
  await closed;
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]), text };
}

const authorization = () => `authorization: Bearer ${stack.key}`;
const loopback = ["localhost", "LOCALHOST", "127.0.0.1", "127.0.0.2", "[::1]", "localhost:8787", "[::1]:8787"];
const named = ["edge.example", "OTHER.example:80"];
const foreign = [
  ...["", " ", "a b", "evil_x.example", "evil.example", "evil.example@localhost", "localhost@evil.example"],
  ...["user:password@localhost", "localhost, evil.example", "localhost/", "localhost:80:80", "localhost:x", ":8787"],
  ...["http://localhost", "ëvil.example", "[::1", "[evil.example]", "[]", "[::1].evil.example", "undefined", ","],
  ...["127.0.0.1.evil.example", "127.evil.example", "localhost.evil.example", "localhost.", "%6cocalhost"],
  ...["edge.example.evil.example", "localhost\r\nhost: evil.example", "evil.example\r\nhost: localhost"],
];

describe("the Host header", () => {
  test.each([...loopback, ...named])("%j is answered", async (host) => {
    expect((await raw(["GET /v1/models HTTP/1.1", `host: ${host}`, authorization()])).status).toBe(200);
  });

  test.each(foreign)("%j is refused, on every path, with and without an origin of the same name", async (host) => {
    for (const path of ["/v1/models", "/", "/healthz"]) {
      for (const origin of [[], [`origin: http://${host}`], [`origin: ${stack.edge}`]]) {
        const answer = await raw([`GET ${path} HTTP/1.1`, `host: ${host}`, authorization(), ...origin]);
        expect([403, 400]).toContain(answer.status);
        expect(answer.text).not.toMatch(/gpt2|<html|"status"/);
      }
    }
  });

  test("of this machine lets no page of another origin in", async () => {
    const ask = async (origin: string) =>
      (await fetch(`${stack.edge}/v1/models`, { headers: { authorization: `Bearer ${stack.key}`, origin } })).status;
    expect(await ask("http://evil.example")).toBe(403);
    expect(await ask("http://localhost:3000")).toBe(403);
    expect(await ask(stack.edge)).toBe(200);
  });
});

test.each([
  ["over the limit", "", 413, 12 * limits.bodyBytes, 15],
  // Bodies with wrong keys are sent in few rounds, because few unknown keys are looked up for one address.
  ["of a wrong key", "wrong", 401, limits.bodyBytes / 2, 5],
  ["of a wrong key, over the limit", "wrong", 401, 6 * limits.bodyBytes, 5],
])("a body %s is answered, though more of it comes", async (_, suffix, status, bytes, rounds) => {
  const head = ["POST /v1/completions HTTP/1.1", "host: localhost", authorization() + suffix];
  for (let round = 0; round < rounds; round++) {
    const answer = await raw([...head, "content-type: application/json", "transfer-encoding: chunked"], bytes);
    expect([answer.status, /\n\r?\n.*"error"/s.test(answer.text)]).toEqual([status, true]);
  }
});

const run = (...args: string[]) =>
  promisify(execFile)(process.execPath, args, { env: { ...process.env, STATE_DIR: stack.state } });

describe("publishing", () => {
  const bucket = () => path.join(stack.state, "r2/ARTIFACTS");
  const publish = (...args: string[]) => run(`${infra}/publish/cli.ts`, ...args);
  const published = async (...args: string[]) => JSON.parse((await publish("--json", ...args)).stdout);
  const failure = (...args: string[]) => publish(...args).then(String, ({ code, stderr }) => [code, stderr]);

  test("uploads missing files, switches, lists and rolls back; a repeated publish does nothing", async () => {
    const [one, two] = [await variantOf(smallBase, path.join(folder, "one"), "one"), path.join(folder, "two")];
    await variantOf(smallBase, two, "two");
    expect(await published("--artifacts", one, "--dry-run")).toMatchObject({ uploaded: 4, present: 0, dryRun: true });
    expect(await published("--list")).toEqual([]);
    const first = await published("--artifacts", one);
    expect(first).toMatchObject({ uploaded: 4, present: 0, before: null, switched: true });
    expect(await published("--artifacts", one)).toMatchObject({ uploaded: 0, present: 4, switched: false });
    const second = await published("--artifacts", two);
    expect(second).toMatchObject({ uploaded: 1, present: 3, before: first.manifest, switched: true });
    expect(await published("--rollback")).toMatchObject({ manifest: first.manifest, switched: true });
    expect(await published("--to", second.manifest.slice(0, 9))).toMatchObject({ manifest: second.manifest });
    const manifests = [second, first, second, first].map(({ manifest }) => manifest);
    const listed = (await published("--list")) as { manifest: string }[];
    expect(listed.map(({ manifest }) => manifest)).toEqual(manifests);
    const pointer = JSON.parse(await readFile(path.join(bucket(), pointerName), "utf8"));
    expect(pointer.switches).toEqual(listed);
    const outcomes = await Promise.allSettled([one, two].map((set) => publish("--artifacts", set)));
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") expect(String(outcome.reason)).toContain("Another publisher switched");
    }
  });

  test("leaves nothing of a file that breaks off, is another's, or comes without the admin key", async () => {
    const { adminKey } = readLocalRun(stack.state)!;
    const names = async () => (await readdir(bucket(), { recursive: true })).sort();
    const before = await names();
    const hash = createHash("sha256").update("a".repeat(300_000)).digest("hex");
    const head = (key: string, bytes: number) => [
      ...[`PUT /admin/v1/artifacts/files/${hash} HTTP/1.1`, "host: localhost", `authorization: Bearer ${key}`],
      `content-length: ${bytes}`,
    ];
    // The client leaves in the middle of its upload.
    const socket = connect(Number(new URL(stack.edge).port), "127.0.0.1");
    socket.write(`${head(adminKey, 300_000).join("\r\n")}\r\n\r\n${"a".repeat(200_000)}`);
    await expect.poll(() => socket.bytesWritten, { timeout: 10_000 }).toBeGreaterThan(200_000);
    socket.destroy();
    const answerTo = async (key: string, text: string) => {
      const headers = { authorization: `Bearer ${key}` };
      const url = `${stack.edge}/admin/v1/artifacts/files/${hash}`;
      return (await fetch(url, { method: "PUT", headers, body: text })).status;
    };
    expect(await answerTo(adminKey, "b".repeat(300_000))).toBe(400);
    expect(await answerTo(stack.key, "a".repeat(300_000))).toBe(401);
    expect(await names()).toEqual(before);
    expect(await answerTo(adminKey, "a".repeat(300_000))).toBe(200);
    expect(await readFile(path.join(bucket(), objectName(hash)), "utf8")).toBe("a".repeat(300_000));
  });

  test("says in one line what it cannot do", async () => {
    const [none, strange] = [path.join(folder, "none"), "0".repeat(64)];
    for (const [args, code, message] of [
      [["--artifacts", none], 1, /^chameleon publish: cannot read .*manifest\.json/],
      [["--to", strange], 1, /Invalid request: the manifest 0{64}/],
      [["--to", "xyz"], 2, /'--to <hash>' argument 'xyz' is invalid/],
      [["--rollback", "--dry-run"], 2, /cannot be used with option '--dry-run'/],
    ] as const) {
      expect(await failure(...args)).toEqual([code, expect.stringMatching(message)]);
    }
  });
});

test("keys, use and published artifacts outlive a kill -9", async () => {
  const made = await run(`${infra}/keys/cli.ts`, "create", "acme", "--json");
  const { key } = JSON.parse(made.stdout);
  const headers = { authorization: `Bearer ${key}` };
  const complete = () => stack.post("/v1/completions", { prompt: "Once", max_tokens: 3 }, headers);
  const used = async () => (await fetch(`${stack.edge}/v1/usage`, { headers })).json();
  const ready = async () => ((await (await fetch(`${stack.edge}/readyz`)).json()) as { manifest: string }).manifest;
  const next = await variantOf(smallBase, path.join(folder, "next"), "next");
  const published = (await run(`${infra}/publish/cli.ts`, "--artifacts", next)).stdout.trim();
  await expect.poll(ready, { timeout: 20_000 }).toBe(published);
  for (const _ of [1, 2]) expect((await complete()).status).toBe(200);
  const before = await used();

  await stack.kill();
  stack = await start();
  expect(await ready()).toBe(published);
  expect(await used()).toEqual(before);
  const answer = await complete();
  const system_fingerprint = `fp_${published.slice(0, 12)}`;
  expect([answer.status, await answer.json()]).toMatchObject([200, { system_fingerprint }]);
});
