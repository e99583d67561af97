/** The commands of `chameleon`. Plain JavaScript without dependencies, because bootstrap.mjs runs before anything is installed. */

/** Command name, of one or two words → [help, file, first arguments]. */
const forUsers = {
  start: ["serve edge and backend on this machine", "infra/start.ts"],
  "start edge": ["serve the edge alone, before backends elsewhere", "infra/start-edge.ts"],
  "start backend": ["serve the backend alone", "gpu-backend/main.ts"],
  score: ["score a text under base, nearest adapter and mixture", "infra/api/score.ts"],
  classify: ["tell which of some labels fits each line of a file", "infra/api/classify.ts"],
  verify: ["compute an answer again, and say whether it is equal", "infra/api/verify.ts"],
  train: ["train adapters on text", "gpu-backend/training/cli.ts"],
  eval: ["measure what artifacts gain, as they are shipped", "gpu-backend/research/cli.ts", "eval"],
  import: ["bring another base: GGUF, a folder, or the Hugging Face hub", "gpu-backend/models/import/cli.ts"],
  publish: ["publish artifacts, switch back, list", "infra/publish/cli.ts"],
  keys: ["make, list, revoke and rotate API keys, set tenants' limits, erase tenants", "infra/keys/cli.ts"],
  adapters: ["list, make and delete a tenant's own adapters", "infra/api/adapters.ts"],
  bench: ["measure speed beside node-llama-cpp", "test/bench/main.ts"],
  backup: ["write keys, limits, use, adapters and artifacts of a server to a file", "infra/backup.ts", "backup"],
  restore: ["make the state of a server of such a file", "infra/backup.ts", "restore"],
  doctor: ["check this machine and the artifacts, and name the mend", "infra/doctor/cli.ts"],
  backend: ["the same as start backend", "gpu-backend/main.ts"],
};

const forDevelopers = {
  test: [
    "run the tests of the code, in minutes; arguments go to vitest (--project unit)",
    "infra/test.ts",
    "test",
    "unit,parity,integration,edge,smoke",
  ],
  "test:all": [
    "run the other tests, which start, harm and measure whole servers",
    "infra/test.ts",
    "test:all",
    "formats,device,commands,e2e,fault,abuse,fuzz",
  ],
  check: ["check style, types and committed files", "infra/check.ts"],
  lines: ["count the lines of source and tests, by folder", "infra/count-lines.ts"],
  audit: ["look for known advisories on the packages that are shipped", "infra/audit.ts"],
  build: ["write dist/, what the npm package holds", "infra/package/build.ts"],
  docs: ["build the documents site, which the next start serves at /docs", "infra/site/cli.ts"],
  corpora: ["fetch the text that embedded adapters are trained and measured on", "gpu-backend/training/corpus/cli.ts"],
  "eval:own": [
    "measure what known documents gain as a memory, and fit how memories count",
    "gpu-backend/research/cli.ts",
    "eval:own",
  ],
  "eval:tasks": ["measure what own adapters learn of labelled examples", "gpu-backend/research/cli.ts", "eval:tasks"],
  paper: [
    "print the paper's table beside the same regimes on a base of 1.8 million parameters",
    "gpu-backend/research/cli.ts",
    "paper",
  ],
  fuzz: ["send bad requests to a real edge and backend", "test/fuzz/requests/main.ts"],
  deploy: ["deploy to an environment of wrangler.toml, or roll back there", "infra/deploy/cli.ts"],
  "deploy:check": ["check the Worker's size and start before a deployment", "infra/deploy-check.ts"],
  "bench:edge": ["measure what the edge costs, beside Portkey's gateway", "test/bench/edge/main.ts"],
  "bench:fault": ["kill or harm an edge or a backend under load", "test/bench/fault/main.ts"],
};

export function commandsOf(isCheckout) {
  return isCheckout ? { ...forUsers, ...forDevelopers } : forUsers;
}

export function usage(commands, version) {
  const lines = Object.entries(commands).map(([name, [help]]) => `  ${name.padEnd(14)} ${help}`);
  return `Usage: chameleon COMMAND [ARGUMENTS]

A small language model that adapts to your text, ${version}.

Commands:
${lines.join("\n")}

Options:
  --version      print the version
  --help         print this; \`chameleon COMMAND --help\` prints a command's own

Example:
  $ chameleon start          # in a checkout also: npm start, npm run COMMAND -- ARGUMENTS

Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted; start and backend, which serve until then, end with 0.
`;
}
