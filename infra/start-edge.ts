/** `chameleon start edge`: serves the edge alone, until a signal or a crash. Does not wait for backends. */
import { collected, createCommand, httpUrl, parsedOptions } from "../gpu-backend/command-line.ts";
import { prepareEdge } from "./local-edge.ts";
import {
  type EdgeOptions,
  edgeEnvironment,
  endOnSignals,
  preparePlace,
  serveEdge,
  withEdgeOptions,
} from "./serve-edge.ts";

const program = withEdgeOptions(
  createCommand(
    "start edge",
    "Serve the edge alone, before backends that run elsewhere, until Ctrl-C",
    [
      "chameleon start edge --backend http://10.0.0.5:8788 --backend http://10.0.0.6:8788 --host 0.0.0.0",
      "chameleon start edge --backend http://chameleon-backend:8788 --trust-proxy --log json",
    ],
    `One process serves a state folder: limits are counted in it.

Environment:
${edgeEnvironment}
  BACKEND_URLS  the backends where no --backend names them, separated by commas
  BACKEND_SECRETS  what calls to the backends are signed with; theirs must be the same
  MODEL_DIR     folder of the backends' model and its artifacts, the embedded one unless set

Exit code: 0 after Ctrl-C or another signal that ends it, 1 where it failed.`,
  ),
).option(
  "--backend <url>",
  "a backend, or the one address of several; repeatable",
  (text: string, before: string[] | undefined) => collected(httpUrl(text), before),
);

interface StartEdgeOptions extends EdgeOptions {
  backend?: string[];
}

async function start({ backend, ...options }: StartEdgeOptions): Promise<void> {
  const backendUrls = backend ?? (process.env.BACKEND_URLS || undefined)?.split(",") ?? [];
  if (backendUrls.length === 0) throw new Error("no backend is named; give --backend URL, or set BACKEND_URLS");
  const place = await preparePlace(options);
  const secrets = process.env.BACKEND_SECRETS ?? "";
  const edge = await serveEdge(await prepareEdge(), { place, backendUrls, secrets }, options);
  await edge.announce(backendUrls.map((url) => ({ url })));
}

const options = parsedOptions<StartEdgeOptions>(program);
endOnSignals();
await start(options);
