"""Model folders: resolving, sizing, reading and writing them, without training or sampling.

Input: `[model]`. Output: a folder, its sizes and its weights in memory.

    resolve.py, hub.py          where a model comes from; whether the hub can be reached
    embedded.py                 models inside installed packages, converted once
    model_config.py             what its configuration says; tokenizer.py: its tokenizer
    run_models.py               the models that runs wrote
    size.py                     what decides how much memory it takes
    loading.py, files.py        weights into memory; a folder as it is written
    weight_files.py             which tensors a folder holds; checkpoint_names.py: what those are called
    tensor_files.py             tensors of any number in safetensors files
"""
