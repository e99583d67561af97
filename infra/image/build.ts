/**
 * Carries out the steps of a Dockerfile without Docker, in a folder for each stage: enough of its language for
 * infra/Dockerfile. Not here: what the steps are (dockerfile.ts), and what is expected of the result (contents.ts).
 */
import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, statSync } from "node:fs";
import path from "node:path";
import { type Instruction, isInContext, pairsOf, readStages, type Stage } from "./dockerfile.ts";

export interface BuildParts {
  dockerfile: string;
  ignoreFile: string;
  /** The project's root. */
  context: string;
  /** An empty folder, for the stages. */
  folder: string;
  /** A folder with the files of a Debian system, as debootstrap makes it; null builds on nothing. */
  debian: string | null;
  /** Docker's name of this machine's architecture. */
  architecture: "amd64" | "arm64";
  log(step: string): void;
}

export interface BuiltImage {
  root: string;
  env: Record<string, string>;
  workdir: string;
  user: string;
  command: string[];
  healthcheck: string[];
}

type State = BuiltImage & { args: Record<string, string> };

/** Throws an Error for a stage that there is not, or a step that fails. */
export function buildImage(target: string, parts: BuildParts): BuiltImage {
  const stages = readStages(parts.dockerfile);
  const built = new Map<string, State>();
  const build = (name: string): State => {
    const known = built.get(name);
    if (known) return known;
    const stage = stages.find((one) => one.name === name);
    if (!stage) throw new Error(`infra/Dockerfile has no stage "${name}"`);
    const state = startOf(stage, name);
    for (const instruction of stage.instructions) {
      parts.log(`${name}: ${instruction.keyword} ${instruction.text}`);
      carryOut(instruction, state);
    }
    built.set(name, state);
    return state;
  };

  const startOf = (stage: Stage, name: string): State => {
    const root = path.join(parts.folder, name);
    if (stages.some((one) => one.name === stage.base)) {
      const base = build(stage.base);
      execFileSync("cp", ["-a", base.root, root]);
      return { ...base, root, env: { ...base.env }, args: {} };
    }
    const state = { root, env: {}, workdir: "/", user: "0:0", command: [], healthcheck: [], args: {} };
    if (stage.base.startsWith("node:")) {
      // Of Node's image all that is used is its program, and this machine's own npm.
      const program = path.join(root, "usr/local/bin/node");
      mkdirSync(path.dirname(program), { recursive: true });
      cpSync(process.execPath, program);
      chmodSync(program, 0o755);
    } else if (stage.base.startsWith("debian:")) {
      if (parts.debian) execFileSync("cp", ["-a", parts.debian, root]);
      else mkdirSync(root);
    } else throw new Error(`the stage "${name}" is built on ${stage.base}, which only Docker can get`);
    return state;
  };

  const carryOut = (instruction: Instruction, state: State): void => {
    const { keyword, text, words } = instruction;
    if (keyword === "ENV") Object.assign(state.env, pairsOf(instruction));
    else if (keyword === "ARG") state.args[words[0]] = words[0] === "TARGETARCH" ? parts.architecture : "";
    else if (keyword === "WORKDIR") {
      state.workdir = path.posix.resolve(state.workdir, words[0]);
      mkdirSync(state.root + state.workdir, { recursive: true });
    } else if (keyword === "COPY") copy(instruction, state);
    else if (keyword === "RUN") runIn(state, text);
    else if (keyword === "USER") state.user = words[0];
    else if (keyword === "CMD") state.command = words;
    else if (keyword === "HEALTHCHECK") state.healthcheck = JSON.parse(/^CMD (\[.*\])$/s.exec(text)![1]);
    else if (!["EXPOSE", "VOLUME"].includes(keyword)) throw new Error(`${keyword} is not known here`);
  };

  const copy = ({ flags, words }: Instruction, state: State): void => {
    const from = flags.from ? build(flags.from).root : parts.context;
    const isWanted = (file: string) => flags.from !== undefined || isInContext(file, parts.ignoreFile);
    const destination = words.at(-1)!;
    for (const source of words.slice(0, -1)) {
      const file = path.join(from, source);
      if (!existsSync(file) || (!statSync(file).isDirectory() && !isWanted(source)))
        throw new Error(`no ${source} to copy`);
      const isInto = destination.endsWith("/") && !statSync(file).isDirectory();
      const to = state.root + path.posix.resolve(state.workdir, destination, isInto ? path.basename(source) : "");
      mkdirSync(path.dirname(to), { recursive: true });
      cpSync(file, to, {
        recursive: true,
        verbatimSymlinks: true,
        filter: (one) => isWanted(path.relative(from, one)),
      });
      if (flags.chown && process.getuid?.() === 0) execFileSync("chown", ["-R", flags.chown, to]);
    }
  };

  const runIn = (state: State, script: string): void => {
    const env = { ...state.env, ...state.args };
    const isSystem = existsSync(path.join(state.root, "bin/sh"));
    // What was built on nothing but Node runs with this machine's programs, in the stage's folder.
    if (isSystem) runAs({ ...state, env }, ["/bin/sh", "-c", script]);
    else {
      const PATH = `${path.dirname(process.execPath)}:${process.env.PATH}`;
      const options = {
        cwd: state.root + state.workdir,
        env: { ...process.env, ...env, PATH },
        stdio: "inherit",
      } as const;
      execFileSync("/bin/sh", ["-ec", script], options);
    }
  };
  const runAs = (state: State, command: string[]) => {
    const [program, ...args] = commandLineOf(state, command);
    execFileSync(program, args, { stdio: "inherit" });
  };

  return build(target);
}

/** The command line that runs `command` in an image: in its root where that is a whole system, else in its folder. */
export function commandLineOf({ root, env, workdir, user }: BuiltImage, command: string[]): string[] {
  const isSystem = existsSync(path.join(root, "bin/sh"));
  const inRoot = isSystem ? "" : root;
  const PATH = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
  const variables = { PATH: PATH.map((folder) => inRoot + folder).join(":"), HOME: "/nonexistent", ...env };
  const settings = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
  const inside = ["env", "-i", "-C", inRoot + workdir, ...settings, ...command];
  return isSystem ? ["chroot", `--userspec=${user}`, root, ...inside] : inside;
}
