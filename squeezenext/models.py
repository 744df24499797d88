"""SqueezeNet and SqueezeNext as functions over Keras tensors.

Layer names are derived from the place in the network (`stage2_unit1_reduce1`), so that weights
are found by name. Sources: the official Caffe files, forresti/SqueezeNet and
amirgholami/SqueezeNext; what is not obvious there is cited where it is done.
"""

import contextlib

import keras
import tensorflow as tf

from squeezenext.config import Config, SqueezeNet, Training
from squeezenext.layers import BatchNorm, Dropout, GroupedConv2D, max_pool

L = keras.layers

_INITIALIZERS = {
    # Caffe's "xavier" scales by the fan-in alone: uniform in +-sqrt(3 / fan_in).
    "caffe_xavier": lambda: keras.initializers.VarianceScaling(1.0, "fan_in", "uniform"),
    "glorot_normal": keras.initializers.GlorotNormal,
}


def build(config: Config, size: int | None = None, precision: str = "float32") -> keras.Model:
    """Builds the network of a configuration.

    Args:
      config: which network, and for which images.
      size: side of the input in pixels; default `config.images.size`.
      precision: Keras dtype policy: float32, mixed_float16, mixed_bfloat16.

    Returns:
      A model from [batch, size, size, 3] floats, normalised as `preprocessing.normalize` does, to
      [batch, classes] float32 logits.
    """
    size = size or config.images.size
    body = _squeezenet if isinstance(config.model, SqueezeNet) else _squeezenext
    with _dtype_policy(precision):
        images = keras.Input((size, size, 3), name="images")
        logits = body(images, config)
        logits = L.Activation("linear", dtype="float32", name="logits")(logits)
        return keras.Model(images, logits, name=type(config.model).__name__.lower())


@contextlib.contextmanager
def _dtype_policy(precision: str):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _squeezenet(x, config: Config):
    model = config.model
    x = _biased_conv(x, model.stem_filters, model.stem_kernel, "conv1", model, strides=2)
    x = max_pool(x, "pool1")
    for number, fire in enumerate(model.fires, start=2):
        x = _fire(x, fire, f"fire{number}", model)
        if number in model.pool_after:
            x = max_pool(x, f"pool{number}")
    x = Dropout(model.dropout, name="dropout")(x)
    if model.head_padding:
        x = L.ZeroPadding2D(model.head_padding, name="conv10_padding")(x)
    normal = keras.initializers.RandomNormal(0.0, 0.01)  # train_val.prototxt: conv10
    x = _biased_conv(x, model.classes, 1, "conv10", model, initializer=normal)
    return L.GlobalAveragePooling2D(dtype="float32", name="global_pool")(x)


def _fire(x, fire, name: str, model: SqueezeNet):
    squeezed = _biased_conv(x, fire.squeeze, 1, f"{name}_squeeze", model)
    outputs = L.Concatenate(name=f"{name}_concat")(
        [
            _biased_conv(squeezed, fire.expand_1x1, 1, f"{name}_expand1x1", model),
            _biased_conv(squeezed, fire.expand_3x3, 3, f"{name}_expand3x3", model, padding="same"),
        ]
    )
    if model.bypass == "none":
        return outputs
    if x.shape[-1] != outputs.shape[-1]:
        if model.bypass == "simple":
            return outputs
        initializer = _INITIALIZERS[model.initializer]()
        filters = outputs.shape[-1]
        x = L.Conv2D(filters, 1, kernel_initializer=initializer, name=f"{name}_bypass")(x)
    # songhan/SqueezeNet-Residual: Eltwise SUM, no ReLU after it.
    return L.Add(name=f"{name}_add")([x, outputs])


def _biased_conv(
    x, filters, kernel, name, model: SqueezeNet, strides=1, padding="valid", initializer=None
):
    """Convolution with bias and activation, the only kind in SqueezeNet (the classifier too)."""
    x = L.Conv2D(
        filters,
        kernel,
        strides,
        padding,
        kernel_initializer=initializer or _INITIALIZERS[model.initializer](),
        name=name,
    )(x)
    return L.Activation(model.activation, name=f"{name}_{model.activation}")(x)


def _squeezenext(x, config: Config):
    model = config.model
    x = _conv(x, model.stem_filters, model.stem_kernel, "stem", config.training, strides=2)
    x = max_pool(x, "stem_pool")
    unit = 0
    for number, stage in enumerate(model.stages, start=1):
        for place in range(1, stage.units + 1):
            strides = stage.stride if place == 1 else 1
            name = f"stage{number}_unit{place}"
            # The pair's order flips every unit through the whole net, never restarting.
            tall_first = unit % 2 == 0
            x = _unit(x, stage.filters, strides, place == 1, tall_first, name, config)
            unit += 1
    x = _conv(x, model.head_filters, 1, "head", config.training)
    x = L.GlobalAveragePooling2D(dtype="float32", name="global_pool")(x)
    xavier = _INITIALIZERS["caffe_xavier"]()
    classifier = L.Dense(
        model.classes,
        use_bias=False,
        kernel_initializer=xavier,
        dtype="float32",  # bfloat16 has three digits, too few to rank a thousand classes
        name="classifier",
    )
    return classifier(x)


def _unit(x, filters, strides, first, tall_first, name, config: Config):
    """Bottleneck 1/2, 1/4, separated pair at 1/2, expansion; plus shortcut; ReLU."""
    model, recipe = config.model, config.training
    relu = model.relu_before_add
    groups = model.groups
    shortcut = x
    if first:
        shortcut = _conv(x, filters, 1, f"{name}_shortcut", recipe, strides, relu=relu)
        if model.bottleneck_input == "shortcut":  # v5: only the shortcut strides
            x, strides = shortcut, 1
    x = _conv(x, filters // 2, 1, f"{name}_reduce1", recipe, strides, groups)
    x = _conv(x, filters // 4, 1, f"{name}_reduce2", recipe)
    pair = ((3, 1), (1, 3)) if tall_first else ((1, 3), (3, 1))
    for kernel in pair:
        place = f"{name}_conv{kernel[0]}x{kernel[1]}"
        x = _conv(x, filters // 2, kernel, place, recipe, groups=groups, padding="same")
    x = _conv(x, filters, 1, f"{name}_expand", recipe, relu=relu)
    x = L.Add(name=f"{name}_add")([x, shortcut])
    return L.ReLU(name=f"{name}_relu")(x)


def _conv(
    x, filters, kernel, name, recipe: Training, strides=1, groups=1, padding="valid", relu=True
):
    """Convolution without bias, batch norm, ReLU: the only kind in SqueezeNext."""
    initializer = _INITIALIZERS["caffe_xavier"]()
    if groups == 1:
        x = L.Conv2D(
            filters,
            kernel,
            strides,
            padding,
            use_bias=False,
            kernel_initializer=initializer,
            name=name,
        )(x)
    else:
        x = _grouped(x, filters, kernel, strides, groups, initializer, name)
    x = BatchNorm(
        momentum=recipe.batch_norm_momentum,
        synchronized=recipe.synchronized_batch_norm,
        name=f"{name}_norm",
    )(x)
    return L.ReLU(name=f"{name}_relu")(x) if relu else x


def _grouped(x, filters, kernel, strides, groups, initializer, name):
    """A strided 1x1 convolution reads every second pixel; only those are convolved."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    if strides > 1:
        x = L.MaxPooling2D(1, strides, name=f"{name}_stride")(x)
    return GroupedConv2D(filters, kernel, groups, initializer, name=name)(x)


def inference(model: keras.Model, batch: int | None = None):
    """Returns a tf.function from [batch, size, size, 3] float32 to logits, not training."""
    signature = tf.TensorSpec((batch, *model.input_shape[1:]), tf.float32, name="images")
    return tf.function(lambda images: model(images, training=False), input_signature=[signature])
