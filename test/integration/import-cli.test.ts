/** The import command as a process, against real servers on loopback: redirects, a proxy, Ctrl-C. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { join } from "node:path";
import { serve } from "@hono/node-server";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { cutAfter, FakeHub } from "../support/fake-hub.ts";
import { outcomeOf } from "../support/outcome.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

const cli = join(import.meta.dirname, "../../gpu-backend/models/import/cli.ts");
const needed = ["config.json", "model.safetensors", "tokenizer.json"];

const original = temporaryFolder();
await writeTinyModel(original);
const read = async (name: string) => [name, new Uint8Array(await readFile(join(original, name)))] as const;
const files = Object.fromEntries(await Promise.all(needed.map(read)));
/** The folder that a test imports to. */
let out: string;
beforeEach(() => {
  out = join(temporaryFolder(), "out");
});

/** Serves on a free port until the test ends; returns the port. */
async function listen(handle: (request: Request) => Response): Promise<number> {
  const server = serve({ fetch: handle, port: 0, hostname: "127.0.0.1" });
  onTestFinished(() => {
    if ("closeAllConnections" in server) server.closeAllConnections();
    server.close();
  });
  if (!server.listening) await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

function launch(env: Record<string, string>) {
  const child = spawn(process.execPath, [cli, "someone/tiny-gpt2", "--out", out], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return { child, ended: outcomeOf(child) };
}

test("follows the hub to its storage, keeps the token from it, and names the next commands", async () => {
  const hub: FakeHub = new FakeHub("someone/tiny-gpt2", files);
  const port = await listen((request) => hub.handle(request));
  const storagePort = await listen((request) => hub.handle(request));
  hub.storage = `http://127.0.0.1:${storagePort}`;
  const env = { HF_ENDPOINT: `http://127.0.0.1:${port}/`, HF_TOKEN: "secret" };
  const { code, stdout, stderr } = await launch(env).ended;
  expect(code, stderr).toBe(0);
  expect(stdout).toContain(`MODEL_DIR=${out} npm start\n`);
  expect(stdout).toContain(`npm run train -- --model ${out} --corpus`);
  const authorised = hub.seen.map(({ url, headers }) => [url.port, headers.get("authorization")]);
  expect(authorised.filter(([at]) => at === String(port)).every(([, token]) => token === "Bearer secret")).toBe(true);
  expect(authorised.filter(([at]) => at === String(storagePort))).toEqual([[String(storagePort), null]]);
});

test("Ctrl-C ends it at once, and the same command goes on", async () => {
  const hub = new FakeHub("someone/tiny-gpt2", files);
  const env = { HF_ENDPOINT: `http://127.0.0.1:${await listen((request) => hub.handle(request))}` };
  hub.fail(/safetensors$/, cutAfter(2000, "hang"));
  const first = launch(env);
  const partialBytes = async () => {
    const name = (await readdir(out).catch(() => [])).find((entry) => entry.endsWith(".partial"));
    return name ? (await stat(join(out, name))).size : 0;
  };
  await expect.poll(partialBytes, { timeout: 20_000 }).toBe(2000);
  first.child.kill("SIGINT");
  const { code, stderr } = await first.ended;
  expect(code).toBe(130);
  expect(stderr).toContain("the same command continues from here");
  expect(await readdir(out)).not.toContain("model.safetensors");

  hub.seen.length = 0;
  const second = await launch(env).ended;
  expect(second.code, second.stderr).toBe(0);
  expect(hub.requestsFor("model.safetensors").map(({ headers }) => headers.get("range"))).toEqual(["bytes=2000-"]);
});

test("goes through the proxy that the environment names", async () => {
  const hub = new FakeHub("someone/tiny-gpt2", files);
  const hubPort = await listen((request) => hub.handle(request));
  const asked: string[] = [];
  const proxy = createServer().on("connect", (request, socket, head) => {
    asked.push(request.url!);
    const tunnel = connect(hubPort, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      tunnel.write(head);
      socket.pipe(tunnel).pipe(socket);
    });
    for (const end of [socket, tunnel]) end.on("error", () => {});
  });
  await once(proxy.listen(0, "127.0.0.1"), "listening");
  onTestFinished(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  const { port } = proxy.address() as AddressInfo;
  const env = { HF_ENDPOINT: "http://hub.invalid", HTTP_PROXY: `http://127.0.0.1:${port}` };
  const { code, stderr } = await launch(env).ended;
  expect(code, stderr).toBe(0);
  expect(new Set(asked)).toEqual(new Set(["hub.invalid:80"]));
});

test("a hub that is not there is one line, at once", async () => {
  const { code, stdout, stderr } = await launch({ HF_ENDPOINT: "http://hub.invalid" }).ended;
  expect(code).toBe(1);
  expect(stdout).toBe("");
  expect(stderr).toMatch(/^chameleon import: cannot reach hub\.invalid \((ENOTFOUND|EAI_AGAIN).*HTTPS_PROXY.*\n$/);
});
