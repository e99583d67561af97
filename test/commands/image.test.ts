/** What the images run, tested without Docker: commands and health checks, on the copied files and this checkout's packages. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { describe, expect, onTestFinished, test } from "vitest";
import { readinessSchema } from "../../shared/contracts/inference.ts";
import { isCheckout } from "../support/documents.ts";
import { read, root } from "../support/project.ts";
import { smallBase } from "../support/small-base.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { webgpuFailure } from "../support/webgpu.ts";

const dockerfile = read("infra/Dockerfile");
const ignoreRules = read("infra/Dockerfile.dockerignore")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"));

/** Whether Docker's build context contains a file: the last matching ignore rule decides. */
function isInContext(file: string): boolean {
  const matches = (pattern: string) => pattern === "*" || file === pattern || file.startsWith(`${pattern}/`);
  return ignoreRules.findLast((rule) => matches(rule.replace("!", "")))!.startsWith("!");
}

/** A folder with the files of `paths` that the build context contains. Removed after the test. */
function context(paths: string[]): { app: string; files: string[] } {
  const tracked = String(execFileSync("git", ["ls-files", "-z", "package.json", ...paths], { cwd: root }));
  const files = tracked.split("\0").filter((file) => file !== "" && isInContext(file));
  const app = temporaryFolder();
  for (const file of files) if (existsSync(`${root}/${file}`)) cpSync(`${root}/${file}`, `${app}/${file}`);
  return { app, files };
}

/** Runs a stage's command in a folder and, after the ready line, its health check. Returns the ready line's JSON. */
async function serve(stageName: string, app: string, variables: Record<string, string>) {
  const [, stage] = new RegExp(`^FROM \\S+ AS ${stageName}$(.*?)^FROM `, "ms").exec(dockerfile)!;
  const [probe, command] = [...stage.matchAll(/^ *CMD (\[.*\])$/gm)].map(([, json]) => JSON.parse(json) as string[]);
  const PATH = `${path.dirname(process.execPath)}:${process.env.PATH}`;
  const env = { PATH, NODE_ENV: "production", BACKEND_PORT: "0", ...variables };
  const server = spawn(command[0], command.slice(1), { cwd: app, env, stdio: ["ignore", "pipe", "pipe"] });
  server.stderr.on("data", (text) => console.error(String(text)));
  onTestFinished(async () => {
    server.kill("SIGTERM");
    if (server.exitCode === null) await once(server, "exit");
  });
  const [line] = await once(createInterface({ input: server.stdout }), "line");
  const ready = JSON.parse(line) as Record<string, unknown>;
  const { port } = new URL(String(ready.url ?? ready.edge));
  execFileSync(probe[0], probe.slice(1), { cwd: app, env: { ...env, BACKEND_PORT: port, EDGE_PORT: port } });
  return ready;
}

const noAdapter = await webgpuFailure();

describe.skipIf(!isCheckout)("the image", () => {
  test("of the CPU starts by its command, gets ready and is healthy", async () => {
    const { app, files } = context(["shared", "gpu-backend"]);
    expect(files.filter((file) => /\/training\/|\/import\//.test(file))).toEqual([]);
    symlinkSync(`${root}/node_modules`, `${app}/node_modules`);
    // The ready line shows that a token was generated.
    await serve("cpu", app, {});
  });

  test.skipIf(noAdapter)("of a GPU starts by the same command, and refuses a software adapter", async () => {
    const { app } = context(["shared", "gpu-backend"]);
    symlinkSync(`${root}/node_modules`, `${app}/node_modules`);
    const [, settings] = /^FROM cpu AS gpu$.*?^ENV (.*?)$/ms.exec(dockerfile)!;
    const set = Object.fromEntries(settings.split(" ").map((pair) => pair.split("=")));
    const variables = { ...set, MODEL_DIR: smallBase, THREADS: "1" };
    const { url } = await serve("cpu", app, { ...variables, REQUIRE_DEVICE: "software" });
    const read = async (path: string) => (await fetch(`${url}${path}`)).text();
    const ready = readinessSchema.parse(JSON.parse(await read("/readyz")));
    expect(ready.device).toMatchObject({
      name: "webgpu",
      selfTest: "passed",
      found: expect.stringContaining("software adapter"),
    });
    expect(ready.numerics).toMatch(/^webgpu-(by-batch-)?fp32-/);
    expect(await read("/metrics")).toMatch(/chameleon_device{device="webgpu",.*adapter="llvmpipe.*"} 1/);
    const options = { cwd: app, env: { PATH: process.env.PATH, ...variables }, encoding: "utf8" } as const;
    const { status, stderr } = spawnSync(process.execPath, ["gpu-backend/main.ts"], options);
    expect([status, stderr]).toEqual([1, expect.stringContaining("REQUIRE_DEVICE=webgpu: the only adapter is in")]);
  });

  test("of the edge starts by its command, with a key of its own, and is healthy before its backends are", async () => {
    const { app } = context(["shared", "gpu-backend", "edge", "infra", "wrangler.toml"]);
    symlinkSync(`${root}/node_modules`, `${app}/node_modules`);
    execFileSync(process.execPath, ["infra/build-edge.ts", "edge/built"], { cwd: app });
    // The image lacks the Worker's source and the development packages, so they are removed here.
    for (const name of readdirSync(`${app}/edge`)) {
      if (!["built", "public"].includes(name)) rmSync(`${app}/edge/${name}`, { recursive: true });
    }
    rmSync(`${app}/node_modules`);
    mkdirSync(`${app}/node_modules`);
    const { devDependencies }: { devDependencies: object } = JSON.parse(read("package.json"));
    const [, removed] = /rm -rf (node_modules.*?) \\?\n? *&& find/s.exec(dockerfile)!;
    const absent = removed.split(/[\s\\]+/).map((name) => path.basename(name));
    const kept = ["workerd", "@cloudflare"];
    for (const name of readdirSync(`${root}/node_modules`)) {
      if (!kept.includes(name) && (absent.includes(name) || name in devDependencies)) continue;
      symlinkSync(`${root}/node_modules/${name}`, `${app}/node_modules/${name}`);
    }
    const variables = { EDGE_HOST: "0.0.0.0", EDGE_PORT: "0", STATE_DIR: `${app}/state`, DRAIN_MS: "0" };
    const ready = await serve("edge", app, { ...variables, BACKEND_URLS: "http://127.0.0.1:9" });
    expect(ready.keyFile).toBe(`${app}/state/api-key`);
  });
});
