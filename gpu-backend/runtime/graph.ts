/// <reference lib="esnext.float16" />
/** Builds an ONNX graph node by node. This file knows ONNX's encoding, not what a graph computes. */
import { readFileSync } from "node:fs";
import protobuf from "protobufjs";

const schema = protobuf.parse(readFileSync(new URL("./onnx.proto", import.meta.url), "utf8"), { keepCase: true });
const ModelProto = schema.root.lookupType("onnx.ModelProto");

/** Version of ai.onnx and the matching IR version. `com.microsoft` is at version 1. */
const operatorSet = 21;
const irVersion = 10;

const elementTypes = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, bool: 9, float16: 10 } as const;
export type ElementType = keyof typeof elementTypes;

/** A fixed size, or the name of a size that varies between runs. */
export type Dimension = number | string;
/** A number becomes ONNX's INT, `{ float }` becomes FLOAT, an array of numbers becomes INTS. */
export type Attribute = number | string | readonly number[] | { float: number };
type Constant = Float32Array | Int32Array | BigInt64Array | Int8Array | Uint8Array;

/** A file for large constants, so that not all constants are in memory at once. */
export interface ConstantFile {
  /** Path relative to the graph's folder. */
  readonly name: string;
  append(bytes: Uint8Array): number;
}
/** Minimum bytes of a constant in the file. ONNX Runtime reads shapes only from the graph itself. */
const smallestFiled = 4096;
/** protobuf counts the bytes of a serialised graph in 31 bits. */
const maxGraphBytes = 2 ** 31 - 1;
/** ONNX's `data_location` of a constant in a `ConstantFile`. */
const external = 1;

interface Node {
  op_type: string;
  domain: string;
  name: string;
  input: string[];
  output: string[];
  attribute: EncodedAttribute[];
}

interface EncodedAttribute {
  name: string;
  type: number;
  f?: number;
  i?: number;
  s?: Uint8Array;
  ints?: number[];
  g?: Branch;
}

interface Branch {
  name: string;
  node: Node[];
  output: object[];
}

/** A value is represented by its name. Methods that add a value return the name. */
export class GraphBuilder {
  readonly #name: string;
  #nodes: Node[] = [];
  readonly #initializers: object[] = [];
  readonly #inputs: object[] = [];
  readonly #outputs: object[] = [];
  readonly #shared = new Map<string, string>();
  readonly #constants = new WeakMap<Constant, { name: string; shape: readonly number[] }>();
  readonly #file: ConstantFile | null;
  #storedBytes = 0;
  /** Name of a value in the nodes → name of the graph output. */
  readonly #renamed = new Map<string, string>();
  #isHalf = false;
  #next = 0;

  constructor(name: string, file: ConstantFile | null = null) {
    this.#name = name;
    this.#file = file;
  }

  input(name: string, type: ElementType, shape: readonly Dimension[]): string {
    this.#inputs.push(valueInfo(name, type, shape));
    return name;
  }

  /** Renames the value, because an Identity node would copy the value at every run. */
  output(name: string, value: string, type: ElementType, shape: readonly Dimension[]): void {
    this.#renamed.set(value, name);
    this.#outputs.push(valueInfo(name, type, shape));
  }

  /** Stores the float constants that `make` adds as float16. Needs Node 24. */
  inHalf<T>(make: () => T): T {
    this.#isHalf = true;
    const made = make();
    this.#isHalf = false;
    return made;
  }

  /** Stores the same array in the same shape once. Throws an Error if shape and length disagree. */
  constant(array: Constant, shape: readonly number[], name = this.#fresh("constant")): string {
    const known = this.#constants.get(array);
    if (known && `${known.shape}` === `${shape}`) return known.name;
    const expected = shape.reduce((a, b) => a * b, 1);
    if (expected !== array.length) {
      throw new Error(
        `graph ${this.#name}: constant ${name} of shape [${shape}] needs ${expected} elements, got ${array.length}`,
      );
    }
    this.#constants.set(array, { name, shape });
    const isHalf = this.#isHalf && array instanceof Float32Array;
    const { buffer, byteOffset, byteLength } = isHalf ? new Float16Array(array) : array;
    this.#initializers.push({
      name,
      dims: [...shape],
      data_type: elementTypes[isHalf ? "float16" : elementTypeOf(array)],
      ...this.#stored(new Uint8Array(buffer, byteOffset, byteLength)),
    });
    return name;
  }

  /** Equal vectors are stored once. */
  integers(...values: number[]): string {
    return this.#share(`integers ${values}`, () => this.constant(BigInt64Array.from(values, BigInt), [values.length]));
  }

  /** Equal scalars are stored once. */
  scalar(value: number): string {
    return this.#share(`scalar ${value} ${this.#isHalf}`, () => this.constant(Float32Array.of(value), []));
  }

  /** `op` may begin with a domain: `com.microsoft:FastGelu`. */
  node(op: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}): string {
    return this.nodes(op, inputs, 1, attributes)[0];
  }

  nodes(op: string, inputs: readonly string[], count: number, attributes: Record<string, Attribute> = {}): string[] {
    const [domain, type] = op.includes(":") ? op.split(":") : ["", op];
    const name = this.#fresh(type);
    const outputs = count === 1 ? [name] : Array.from({ length: count }, (_, i) => `${name}.${i}`);
    const node = {
      op_type: type,
      domain,
      name,
      input: [...inputs],
      output: outputs,
      attribute: Object.entries(attributes).map(([key, value]) => attribute(key, value)),
    };
    this.#nodes.push(node);
    return outputs;
  }

  /** Only one branch runs. `condition` is a bool scalar. Without `otherwise`, a false `condition` gives empty values. */
  when(
    condition: string,
    outputs: readonly { type: "float32" | "int32"; shape: readonly Dimension[] }[],
    then: () => string[],
    otherwise?: () => string[],
  ): string[] {
    const outer = this.#nodes;
    const branch = (values: () => string[]): Branch => {
      this.#nodes = [];
      const names = values();
      const output = names.map((name, i) => valueInfo(name, outputs[i].type, outputs[i].shape));
      return { name: this.#fresh("branch"), node: this.#nodes, output };
    };
    const thenBranch = branch(then);
    const empty = ({ type, shape }: (typeof outputs)[number]) => {
      const none = type === "float32" ? new Float32Array(0) : new Int32Array(0);
      const sizes = shape.map((size) => (typeof size === "number" ? size : 0));
      return this.node("Identity", [this.constant(none, sizes)]);
    };
    const elseBranch = branch(otherwise ?? (() => outputs.map(empty)));
    this.#nodes = outer;
    const name = this.#fresh("If");
    const output = outputs.map((_, i) => `${name}.${i}`);
    const attribute = [
      { name: "then_branch", type: 5, g: thenBranch },
      { name: "else_branch", type: 5, g: elseBranch },
    ];
    this.#nodes.push({ op_type: "If", domain: "", name, input: [condition], output, attribute });
    return output;
  }

  /** Throws an Error if a field has the wrong type, or if the constants are too large for a graph. */
  bytes(): Uint8Array {
    if (this.#storedBytes > maxGraphBytes) {
      throw new Error(
        `graph ${this.#name}: its weights have ${this.#storedBytes} bytes; a graph has at most ${maxGraphBytes}`,
      );
    }
    const rename = (value: string) => this.#renamed.get(value) ?? value;
    const renamed = (nodes: readonly Node[]): Node[] =>
      nodes.map((node) => ({
        ...node,
        input: node.input.map(rename),
        output: node.output.map(rename),
        attribute: node.attribute.map((one) => (one.g ? { ...one, g: { ...one.g, node: renamed(one.g.node) } } : one)),
      }));
    const model = {
      ir_version: irVersion,
      producer_name: "chameleon-edge",
      opset_import: [
        { domain: "", version: operatorSet },
        { domain: "com.microsoft", version: 1 },
      ],
      graph: {
        name: this.#name,
        node: renamed(this.#nodes),
        initializer: this.#initializers,
        input: this.#inputs,
        output: this.#outputs,
      },
    };
    const problem = ModelProto.verify(model);
    if (problem) throw new Error(`graph ${this.#name}: ${problem}`);
    return ModelProto.encode(model).finish();
  }

  #stored(bytes: Uint8Array): object {
    if (!this.#file || bytes.byteLength < smallestFiled) {
      this.#storedBytes += bytes.byteLength;
      return { raw_data: bytes };
    }
    const entries = { location: this.#file.name, offset: this.#file.append(bytes), length: bytes.byteLength };
    const external_data = Object.entries(entries).map(([key, value]) => ({ key, value: `${value}` }));
    return { data_location: external, external_data };
  }

  #fresh(stem: string): string {
    return `${stem}_${this.#next++}`;
  }

  #share(key: string, make: () => string): string {
    const known = this.#shared.get(key);
    if (known) return known;
    const made = make();
    this.#shared.set(key, made);
    return made;
  }
}

function valueInfo(name: string, type: ElementType, shape: readonly Dimension[]): object {
  const dim = shape.map((d) => (typeof d === "number" ? { dim_value: d } : { dim_param: d }));
  return { name, type: { tensor_type: { elem_type: elementTypes[type], shape: { dim } } } };
}

function attribute(name: string, value: Attribute): EncodedAttribute {
  if (typeof value === "string") return { name, type: 3, s: new TextEncoder().encode(value) };
  if (typeof value === "number") return { name, type: 2, i: value };
  if ("float" in value) return { name, type: 1, f: value.float };
  return { name, type: 7, ints: [...value] };
}

function elementTypeOf(array: Constant): ElementType {
  if (array instanceof Float32Array) return "float32";
  if (array instanceof Int32Array) return "int32";
  if (array instanceof BigInt64Array) return "int64";
  if (array instanceof Int8Array) return "int8";
  return "uint8";
}
