// node gguf.mjs FOLDER REQUEST: run a GGUF file through llama.cpp, in float32, on one thread of the CPU.
//
// FOLDER has node_modules/node-llama-cpp. REQUEST is a JSON file:
//   {"model": PATH, "out": PATH, "tokens": [ids], "prompt": [ids], "new_tokens": n}   a decoder
//   {"model": PATH, "out": PATH, "batch": [[ids], …]}                                  an encoder
// "out" receives float32 numbers: the logits, [position, vocab], or the pooled embeddings, [sequence, hidden].
// Standard output receives one line of JSON: {"continuation": [ids]} of a decoder, {} of an encoder.

import {createRequire} from "node:module";
import {readFileSync, writeFileSync} from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [folder, requestFile] = process.argv.slice(2);
const require = createRequire(path.join(folder, "package.json"));
const {getLlama} = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const request = JSON.parse(readFileSync(requestFile, "utf8"));

const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({
    modelPath: request.model,
    gpuLayers: 0,
    defaultContextFlashAttention: false,
    // The cache is float16 by default, which would hide whatever is smaller than 1e-3.
    experimentalDefaultContextKvCacheKeyType: "F32",
    experimentalDefaultContextKvCacheValueType: "F32",
});

const write = (numbers) => writeFileSync(request.out, Buffer.from(Float32Array.from(numbers).buffer));

async function decode() {
    const context = await model.createContext({
        contextSize: request.tokens.length + request.prompt.length + request.new_tokens,
        threads: 1,
    });
    const sequence = context.getSequence();
    const items = request.tokens.map((token) => [token, {generateNext: {logits: true}}]);
    const outputs = await sequence.controlledEvaluate(items);
    const vocab = outputs[0].next.logits.size;
    const logits = new Float32Array(items.length * vocab);
    outputs.forEach((output, position) => {
        for (const [token, value] of output.next.logits) logits[position * vocab + token] = value;
    });
    write(logits);

    await sequence.clearHistory();
    const continuation = [];
    let next = request.prompt;
    while (continuation.length < request.new_tokens) {
        const items = [...next.slice(0, -1), [next.at(-1), {generateNext: {token: true, options: {temperature: 0}}}]];
        next = [(await sequence.controlledEvaluate(items)).at(-1).next.token];
        continuation.push(next[0]);
    }
    return {continuation};
}

async function encode() {
    const context = await model.createEmbeddingContext({contextSize: 512, threads: 1});
    const vectors = [];
    for (const tokens of request.batch) vectors.push((await context.getEmbeddingFor(tokens)).vector);
    write(vectors.flat());
    return {};
}

console.log(JSON.stringify(await (request.batch ? encode() : decode())));
process.exit(0);
