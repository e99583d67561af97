/**
 * Portkey's gateway, started from npm on Node. It passes a request on to an OpenAI-compatible server. @hono/node-server is pinned, because
 * with newer versions every answer is "TypeError: immutable".
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { freePorts } from "../../../support/stack.ts";
import { installPeer } from "../../peer-package.ts";
import { completionsWay, type Way } from "../first-token.ts";

/**
 * Ways to the completions of the server at `serverUrl`: directly, and through Portkey's gateway. Says why if the gateway cannot be
 * installed or started.
 */
export async function portkeyWays(
  serverUrl: string,
  bodies: string[],
  say: (line: string) => void,
): Promise<{ ways: Way[]; stop(): Promise<void> }> {
  const direct = completionsWay("an OpenAI server directly", serverUrl, bodies);
  try {
    installPeer(import.meta.dirname);
    const portkey = await startPortkey((await freePorts(1))[0]);
    const headers = {
      "x-portkey-provider": "openai",
      "x-portkey-custom-host": `${serverUrl}/v1`,
      authorization: "Bearer x",
    };
    const gateway = { ...completionsWay("portkey", portkey.url, bodies), headers };
    return { ways: [direct, gateway], stop: portkey.stop };
  } catch (error) {
    say(`portkey: not measured: ${error instanceof Error ? error.message : error}`);
    return { ways: [direct], async stop() {} };
  }
}

/** Starts the gateway on `port`, which must be free. */
async function startPortkey(port: number) {
  const script = path.join(import.meta.dirname, "node_modules/@portkey-ai/gateway/build/start-server.js");
  const child: ChildProcess = spawn(process.execPath, [script, `--port=${port}`, "--headless"], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, NODE_ENV: "production" },
  });
  process.once("exit", () => child.kill("SIGKILL"));
  const ended = once(child, "close");
  await new Promise<void>((resolve, reject) => {
    let printed = "";
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.on("data", (chunk) => {
        printed = (printed + chunk).slice(-10_000);
        if (printed.includes("Ready for connections")) resolve();
      });
    }
    ended.then(() => reject(new Error(`Portkey's gateway ended before it was ready: ${printed}`)), reject);
  });
  return {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}
