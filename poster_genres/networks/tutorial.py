"""The tutorial's network."""

from collections import OrderedDict

from torch import nn

from poster_genres.network import Architecture, Head, Network, Preprocessing


def tutorial(genres: int, height: int, width: int) -> Network:
    """The network of the tutorial that this project began from, as Keras builds it.

    Four blocks of a 5 x 5 convolution without padding, ReLU, 2 x 2 max pooling, batch norm and dropout, then two hidden
    dense layers. 702,425 parameters at 200 x 200 with 25 genres. Keras' defaults are kept where PyTorch's differ: Glorot
    uniform weights and zero biases, batch norm with momentum 0.99 (PyTorch counts it from the other end) and epsilon 0.001.
    """
    layers: list[nn.Module] = []
    channels = 3
    for block, filters in enumerate((16, 32, 64, 64)):
        layers += [nn.Conv2d(channels, filters, 5)]
        norm = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)
        relu, pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        # The first block's batch norm is before its pooling, and bears the name that it has in models' files. In the others
        # pooling comes before ReLU, which gives the same from a fourth of the numbers.
        layers += [nn.Sequential(OrderedDict(relu=relu, norm=norm, pool=pool))] if block == 0 else [nn.Sequential(pool, relu), norm]
        layers += [nn.Dropout(0.2)]
        channels, height, width = filters, (height - 4) // 2, (width - 4) // 2
    if height < 1 or width < 1:
        raise ValueError("it needs at least 76 x 76 pixels")
    dense = [nn.Linear(channels * height * width, 128), nn.ReLU(), nn.Dropout(0.5)]
    dense += [nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5), Head(64, genres)]
    network = Network(nn.Sequential(*layers), nn.Flatten(), nn.Sequential(*dense))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network


# The tutorial only divides by 255.
ARCHITECTURE = Architecture(tutorial, Preprocessing((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)))
