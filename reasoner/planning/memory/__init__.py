"""What a run will take of memory, estimated before anything is loaded.

Legend: N parameters, H hidden, I intermediate, V vocabulary, Q and K values of a token's queries and keys in a layer, b
bytes of a number in `model.dtype`.

    learner      weights, gradient, AdamW's two moments: 16 bytes per parameter, 10 with moments of 8 bits; with
                 DeepSpeed what docs/scaling.md says. With an adapter (`[lora]`): that for its parameters; the others
                 are frozen, with `lora.quantization` in 4.13 bits
    reference    4 bytes per parameter, with bfloat16 2 for those of linear layers; with DeepSpeed b; none with an
                 adapter
    teacher      the same, where it is another model and no server holds it
    critic       as a learner
    sampler      its own weights, and its KV cache: 2 K b per token and layer
    published    what the sampler loads, in memory until it has: N b, or an adapter

These follow from the number formats: they are certain, and a run is refused where they do not fit. The others are
estimates:

    activations  what autograd keeps of a token in a layer: 6 H + 3 Q + 2 K + 4 I values (normalised inputs, attention
                 that keeps no scores, a gated MLP); outside of the layers 5 H, and 2 H + 3 I of gradients on their way.
                 With recomputation H per layer, and all of one layer. Times the tokens of the largest micro-batch. An
                 MLP in tiles has its 4 I and 3 I for the tokens of a tile. K experts of width E: 4 K E + (2 K + 1) H
                 instead of 4 I
    logits       two chunks of them, and 4 H V of the output layer's gradient
    kept         on a CPU, what the update has freed and malloc has not given back; with recomputation or an adapter
                 everything goes back at once
    processes    Python with torch, scoring workers, vLLM

    needs.py                    what must be there at the same time, by moment; whether it is
    learner.py                  weights, gradients, the optimiser
    activations.py              what the passes of an update hold
    quantized.py                weights of fewer bits than the model's
    sampler.py                  the sampler, its cache, and the file that it loads
    tokens.py                   the tokens of a micro-batch, of a row, of a share
"""
